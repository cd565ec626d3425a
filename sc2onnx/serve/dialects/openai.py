"""OpenAI's completions: ``/v1/completions`` and ``/v1/models``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Final, TypeVar

from msgspec import Meta, Struct

from sc2onnx.runtime.options import GenerationKeywords
from sc2onnx.runtime.results import Completion, Piece, Usage
from sc2onnx.runtime.text.codec import Codec
from sc2onnx.runtime.text.fitting import Surroundings
from sc2onnx.serve.ask import Answer, Ask, Tokens
from sc2onnx.serve.dialects.common import MOST, MOST_BIASED, check_most, check_stops, ended
from sc2onnx.serve.dialects.constraints import Guided, guided
from sc2onnx.serve.dialects.log_probabilities import columns, joined, prompt_columns
from sc2onnx.serve.dialects.spelt import taken_apart
from sc2onnx.serve.refusal import RefusedError
from sc2onnx.serve.settings import Settings

_DIGITS: Final = 12
"""Of a token id, more than any has: longer ones are none in any case, and slow to read."""

DONE: Final = b"data: [DONE]\n\n"
"""What ends a stream."""


class StreamOptions(Struct):
    """How a stream ends."""

    include_usage: bool = False


class Prediction(Struct):
    """A text that the completion may be like."""

    content: str = ""


class Body(Guided):
    """A request. What is not listed is ignored, as by other servers."""

    prompt: str | list[str | int | list[int]] = ""
    model: str = ""
    suffix: str | None = None
    max_tokens: Annotated[int, Meta(ge=0, le=MOST)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=MOST)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    n: Annotated[int, Meta(ge=1, le=MOST)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=MOST)] | None = None
    stop: str | list[str] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: bool | None = None
    ignore_eos: bool = False
    logit_bias: Annotated[dict[str, float], Meta(max_length=MOST_BIASED)] | None = None
    prediction: Prediction | None = None

    @property
    def writes_nothing(self) -> bool:
        """Whether its prompt is all that is to be computed."""
        return self.max_tokens == 0

    @property
    def usage_at_end(self) -> bool:
        """Whether a stream's last event has the usage."""
        return self.stream_options is not None and self.stream_options.include_usage


def ask(body: Body, settings: Settings) -> Ask:
    """What a body asks for. Raises :class:`RefusedError`."""
    check(body, settings)
    prompts = _prompts(body.prompt, settings)
    code = tuple[str | Tokens | Surroundings, ...](prompts)
    if not body.echo:
        code = tuple(
            taken_apart(prompt, settings) if isinstance(prompt, str) else prompt
            for prompt in prompts
        )
    if body.suffix is not None:
        code = tuple(_infilling(prompt, body.suffix) for prompt in prompts)
    warms = body.writes_nothing and not body.echo
    return Ask(code, options(body, settings), body.n or 1, body.model, bool(body.stream), warms)


def check(body: Body, settings: Settings) -> None:
    """Refuse what is not done, and what is too much.
    Silence would be an answer that was not asked for.
    """
    if body.best_of not in (None, body.n or 1):
        raise RefusedError(
            400,
            f"best_of is {body.best_of}, expected n: nothing is drawn that is not given",
            param="best_of",
        )
    for name in ("presence_penalty", "frequency_penalty"):
        if getattr(body, name):
            raise RefusedError(
                400, f"{name} is not supported, expected 0: use repetition_penalty", param=name
            )
    if body.logprobs is not None and body.echo and body.stream:
        told = "logprobs of an echoed prompt are not streamed, expected stream without one of them"
        raise RefusedError(400, told, param="echo")
    if body.echo and body.suffix is not None:
        raise RefusedError(400, "echo and suffix are given, expected one of them", param="echo")
    check_most("n", body.n, settings.most_samples)
    check_most("max_tokens", body.max_tokens, settings.most_tokens)
    check_stops(body.stop, settings)


def _prompts(
    prompt: str | list[str | int | list[int]], settings: Settings
) -> tuple[str | Tokens, ...]:
    """A text, several, ids, or several lists of ids."""
    if isinstance(prompt, str):
        return (prompt,)
    if prompt and all(isinstance(each, int) for each in prompt):
        return (tuple(each for each in prompt if isinstance(each, int)),)
    kinds = {type(each) for each in prompt}
    if len(kinds) != 1 or int in kinds:
        raise RefusedError(
            400,
            "prompt is a mixed or empty list, expected texts, or token ids, or lists of those",
            param="prompt",
        )
    if len(prompt) > settings.most_prompts:
        raise RefusedError(
            400,
            f"prompt has {len(prompt)} entries, expected at most {settings.most_prompts}",
            param="prompt",
        )
    return tuple(
        each if isinstance(each, str) else tuple(each)
        for each in prompt
        if not isinstance(each, int)
    )


def _infilling(prompt: str | Tokens, suffix: str) -> Surroundings:
    if not isinstance(prompt, str):
        raise RefusedError(
            400, "suffix is given and prompt is token ids, expected a text", param="suffix"
        )
    return Surroundings(prompt, suffix)


def options(body: Body, settings: Settings) -> GenerationKeywords:
    """The dialect's defaults: 16 tokens, drawn at a temperature of 1."""
    found = GenerationKeywords(
        max_new_tokens=max(1, 16 if body.max_tokens is None else body.max_tokens),
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=max(0, body.top_k or 0),
        min_p=body.min_p or 0.0,
        repetition_penalty=body.repetition_penalty or 1.0,
        seed=body.seed,
        logprobs=body.logprobs is not None,
        top_logprobs=body.logprobs or 0,
        prompt_logprobs=bool(body.echo) and body.logprobs is not None,
    )
    if body.ignore_eos:
        found["stop_tokens"] = ()
    if body.logit_bias:
        found["logit_bias"] = _bias(body.logit_bias)
    if body.stop:
        found["stop"] = body.stop
    if body.prediction is not None and body.prediction.content:
        found["prediction"] = body.prediction.content
    found.update(guided(body))
    return found


def _bias(given: Mapping[str, float]) -> dict[int, float]:
    """By token id, which JSON can only spell."""
    try:
        return {int(token[:_DIGITS]): value for token, value in given.items()}
    except ValueError:
        raise RefusedError(
            400, "logit_bias has a key that is no token id, expected ids", param="logit_bias"
        ) from None


def choice(index: int, done: Completion, echo: str, codec: Codec, *, empty: bool = False) -> Answer:
    """A completion as a client has it, after an echo of its prompt. ``empty``: nothing was asked to
    be written.
    """
    told = emptied(done) if empty else done
    logprobs = columns(told, codec, len(echo))
    if logprobs is not None and done.prompt is not None:
        logprobs = joined(prompt_columns(done.prompt, codec), logprobs)
    reason = "length" if empty else ended(done.finish_reason)
    return {"index": index, "text": echo + told.text, "logprobs": logprobs, "finish_reason": reason}


def piece_choice(
    index: int, piece: Piece, echo: str, codec: Codec, offset: int, *, empty: bool = False
) -> Answer:
    """A piece of one, which begins at ``offset`` of its text."""
    told = emptied(piece) if empty else piece
    logprobs = columns(told, codec, offset + len(echo))
    reason = piece.finish_reason and ("length" if empty else ended(piece.finish_reason))
    return {"index": index, "text": echo + told.text, "logprobs": logprobs, "finish_reason": reason}


G = TypeVar("G", Completion, Piece)


def emptied(given: G) -> G:
    """Without its text: one token is computed in any case."""
    top = None if given.top_logprobs is None else ()
    logprobs = None if given.logprobs is None else ()
    return replace(given, text="", tokens=(), logprobs=logprobs, top_logprobs=top)


def completion(name: str, model: str, choices: Sequence[Answer], usage: Answer | None) -> Answer:
    """An answer, or an event of a stream."""
    head = {
        "id": name,
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": choices,
    }
    return head if usage is None else {**head, "usage": usage}


def usage(prompts: Sequence[Usage], each: Sequence[Usage], *, empty: bool = False) -> Answer:
    """Tokens of the prompts, each counted once, and of all samples of them."""
    read, written = (
        sum(used.prompt for used in prompts),
        sum(used.generated for used in each) * (not empty),
    )
    cached = sum(used.reused for used in prompts)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def models(bases: Mapping[str, str | None], since: int, context: int) -> Answer:
    """The models that there are. ``bases``: of each, the one that it is an adapter of, or None."""
    data = [
        {
            "id": name,
            "object": "model",
            "created": since,
            "owned_by": "sc2onnx",
            "max_model_len": context,
            **({"parent": base} if base is not None else {}),
        }
        for name, base in bases.items()
    ]
    return {"object": "list", "data": data}
