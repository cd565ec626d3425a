"""OpenAI's chats: ``/v1/chat/completions``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, field

from sc2onnx.runtime.results import Completion, Piece
from sc2onnx.runtime.text.codec import Codec
from sc2onnx.serve.ask import Answer, Ask
from sc2onnx.serve.dialects import openai
from sc2onnx.serve.dialects.common import MOST, check_most, ended
from sc2onnx.serve.dialects.log_probabilities import in_rows
from sc2onnx.serve.dialects.messages import Messages, Part, check_no_tools, conversation
from sc2onnx.serve.refusal import RefusedError
from sc2onnx.serve.settings import Settings

_MOST_LIKELIEST: Final = 20


class Prediction(openai.Prediction):
    """A text that the answer may be like, whole or in parts."""

    content: str | list[Part] = ""  # type: ignore[assignment]

    @property
    def text(self) -> str:
        """All of it."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text or "" for part in self.content)


class Body(openai.Body, kw_only=True):
    """A request: what a completion may ask for, for messages. ``chat_template_kwargs`` and
    ``continue_final_message`` are vLLM's; ``special_tokens`` is ours: whether control tokens spelt
    out in messages are such.
    """

    messages: Messages = field(default_factory=list)
    max_completion_tokens: Annotated[int, Meta(ge=0, le=MOST)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=_MOST_LIKELIEST)] | None = None
    prediction: Prediction | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool = False
    special_tokens: Literal["parse", "text"] = "parse"
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    tool_choice: Any = None
    function_call: Any = None
    modalities: list[str] | None = None

    @property
    def writes_nothing(self) -> bool:
        """Whether its prompt is all that is to be computed."""
        return self.most_tokens == 0

    @property
    def most_tokens(self) -> int | None:
        """Tokens of the answer; the older name counts where the newer one is not given."""
        most = self.max_completion_tokens
        return self.max_tokens if most is None else most


def ask(body: Body, settings: Settings) -> Ask:
    """What a body asks for. Raises :class:`RefusedError`."""
    _check(body, settings)
    options = openai.options(body, settings)
    most = settings.most_tokens if body.most_tokens is None else body.most_tokens
    options["max_new_tokens"] = max(1, most)
    options["logprobs"] = bool(body.logprobs)
    options["top_logprobs"] = body.top_logprobs or 0
    options["prompt_logprobs"] = False
    options["special_tokens"] = body.special_tokens
    if body.prediction is not None:
        options["prediction"] = body.prediction.text or None
    asked = conversation(
        body.messages, body.chat_template_kwargs, continues=body.continue_final_message
    )
    samples, stream = body.n or 1, bool(body.stream)
    return Ask((asked,), options, samples, body.model, stream, body.writes_nothing)


def _check(body: Body, settings: Settings) -> None:
    openai.check(body, settings)
    check_most("max_completion_tokens", body.max_completion_tokens, settings.most_tokens)
    for name in ("tools", "functions"):
        check_no_tools(name, getattr(body, name))
    for name in ("tool_choice", "function_call"):
        check_no_tools(name, getattr(body, name) not in (None, "none", "auto"))
    if body.top_logprobs and not body.logprobs:
        raise RefusedError(
            400, "top_logprobs is given without logprobs, expected both", param="top_logprobs"
        )
    if set(body.modalities or ()) - {"text"}:
        raise RefusedError(
            400, "modalities has other things than text, expected that", param="modalities"
        )


def choice(index: int, done: Completion, codec: Codec, *, empty: bool = False) -> Answer:
    """A message as a client has it. ``empty``: nothing was asked to be written."""
    told = openai.emptied(done) if empty else done
    return {
        "index": index,
        "message": {"role": "assistant", "content": told.text, "refusal": None},
        "logprobs": in_rows(told, codec),
        "finish_reason": "length" if empty else ended(done.finish_reason),
    }


def first_choice(index: int) -> Answer:
    """What begins a stream of a message: who speaks."""
    return _delta(index, {"role": "assistant", "content": ""}, None, None)


def piece_choice(index: int, piece: Piece, codec: Codec, *, empty: bool = False) -> Answer:
    """A piece of a message."""
    told = openai.emptied(piece) if empty else piece
    reason = piece.finish_reason and ("length" if empty else ended(piece.finish_reason))
    delta = {"content": told.text} if told.text or told.tokens else {}
    return _delta(index, delta, in_rows(told, codec) if delta else None, reason)


def _delta(index: int, delta: Answer, logprobs: Answer | None, reason: str | None) -> Answer:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def completion(
    name: str, model: str, choices: Sequence[Answer], usage: Answer | None, *, part: bool = False
) -> Answer:
    """An answer, or ``part`` of one: an event of a stream."""
    head = {
        "id": name,
        "object": "chat.completion.chunk" if part else "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": choices,
    }
    return head if usage is None else {**head, "usage": usage}
