"""Answers as bytes: compact JSON, events of a stream, refusals."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from sc2onnx.serve.refusal import RefusedError

_ENCODER = msgspec.json.Encoder()


def as_json(answer: Any) -> bytes:
    """On one line and without spaces, which some clients look for."""
    return _ENCODER.encode(answer)


def event(answer: Any) -> bytes:
    """An event of a stream."""
    return b"data: " + as_json(answer) + b"\n\n"


def replied(answer: Any, status: int = 200) -> Response:
    """An answer in JSON."""
    return Response(as_json(answer), status, media_type="application/json")


def error(refusal: RefusedError) -> dict[str, Any]:
    """A refusal, as OpenAI's and llama.cpp's clients read it."""
    return {
        "error": {
            "message": refusal.message,
            "type": refusal.kind,
            "param": refusal.param,
            "code": refusal.status,
        }
    }


def refused(refusal: RefusedError, told: Any = None) -> Response:
    """A request that is not answered, ``told`` in a dialect of its own. Clients come again after
    ``retry-after`` seconds by themselves.
    """
    response = replied(error(refusal) if told is None else told, refusal.status)
    if refusal.retry_after is not None:
        response.headers["retry-after"] = str(refusal.retry_after)
    if refusal.status == 401:
        response.headers["www-authenticate"] = "Bearer"
    return response
