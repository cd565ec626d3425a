"""Mistral's ``/v1/fim/completions``."""

from __future__ import annotations

import time
from typing import Annotated

from msgspec import Meta, Struct

from sc2onnx.runtime.options import GenerationKeywords
from sc2onnx.runtime.results import Completion, Piece, Usage
from sc2onnx.runtime.text.fitting import Surroundings
from sc2onnx.serve.ask import Answer, Ask
from sc2onnx.serve.dialects.common import MOST, check_most, check_stops, ended
from sc2onnx.serve.dialects.constraints import ResponseFormat, response_format
from sc2onnx.serve.settings import Settings


class Fim(Struct):
    """A request. What is not listed is ignored."""

    prompt: str = ""
    suffix: str = ""
    model: str = ""
    max_tokens: Annotated[int, Meta(ge=0, le=MOST)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] = 0.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    random_seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    response_format: ResponseFormat | None = None


def ask(body: Fim, settings: Settings) -> Ask:
    """What a body asks for. Raises :class:`~sc2onnx.serve.refusal.RefusedError`."""
    check_most("max_tokens", body.max_tokens, settings.most_tokens)
    check_stops(body.stop, settings)
    options = GenerationKeywords(
        max_new_tokens=max(1, 128 if body.max_tokens is None else body.max_tokens),
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.random_seed,
    )
    if body.stop:
        options["stop"] = body.stop
    options.update(response_format(body.response_format))
    return Ask(
        (Surroundings(body.prompt, body.suffix),),
        options,
        1,
        body.model,
        body.stream,
        body.max_tokens == 0,
    )


def answer(number: str, model: str, done: Completion, more: Answer) -> Answer:
    """A completion as a client has it. ``more``: fields of it that Mistral's own has not."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": done.text},
        "finish_reason": ended(done.finish_reason),
        **more,
    }
    return {
        **_head(number, model, "chat.completion"),
        "choices": [choice],
        "usage": _usage(done.usage),
    }


def event(number: str, model: str, piece: Piece, used: Usage, more: Answer) -> Answer:
    """An event of a stream; the last one has the usage. ``more``: see :func:`answer`."""
    reason = None if piece.finish_reason is None else ended(piece.finish_reason)
    choice = {
        "index": 0,
        "delta": {"role": "assistant", "content": piece.text},
        "finish_reason": reason,
        **more,
    }
    found = {**_head(number, model, "chat.completion.chunk"), "choices": [choice]}
    return found if reason is None else {**found, "usage": _usage(used)}


def _head(number: str, model: str, kind: str) -> dict[str, object]:
    return {"id": number, "object": kind, "created": int(time.time()), "model": model}


def _usage(used: Usage) -> Answer:
    return {
        "prompt_tokens": used.prompt,
        "completion_tokens": used.generated,
        "total_tokens": used.prompt + used.generated,
    }
