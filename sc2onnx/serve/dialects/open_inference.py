"""The Open Inference Protocol (KServe, Triton): facts of a model, and
its extension ``generate``.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct, field

from sc2onnx import __version__
from sc2onnx.runtime.options import GenerationKeywords
from sc2onnx.runtime.results import Completion, Piece
from sc2onnx.runtime.text.fitting import Surroundings
from sc2onnx.serve.ask import Answer, Ask
from sc2onnx.serve.dialects.common import MOST, check_most, check_stops
from sc2onnx.serve.dialects.spelt import taken_apart
from sc2onnx.serve.refusal import RefusedError
from sc2onnx.serve.settings import Settings

_USUAL: Final = 20
"""Tokens where a request says nothing, of the protocol."""


class Parameters(Struct):
    """How to generate. Those of the protocol are ``temperature`` to ``frequency_penalty``; it lets
    a model have others. What is not listed is ignored.
    """

    temperature: Annotated[float, Meta(ge=0, le=100)] = 0.0
    top_p: Annotated[float, Meta(ge=0, le=1)] = 1.0
    max_tokens: Annotated[int, Meta(ge=0, le=MOST)] = _USUAL
    best_of: Annotated[int, Meta(ge=0, le=MOST)] = 1
    stop: list[str] | str | None = None
    frequency_penalty: float = 0.0
    suffix: str = ""
    top_k: Annotated[int, Meta(ge=0, le=MOST)] = 0
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] = 1.0
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None


class Generate(Struct):
    """``generate`` and ``generate_stream``."""

    text_input: str
    parameters: Parameters = field(default_factory=Parameters)


def ask(body: Generate, model: str, settings: Settings, *, stream: bool) -> Ask:
    """What a body asks for. Raises :class:`~sc2onnx.serve.refusal.RefusedError`."""
    given = body.parameters
    if given.best_of > 1 or given.frequency_penalty:
        name = "best_of" if given.best_of > 1 else "frequency_penalty"
        told = f"{name} is not supported, expected none"
        raise RefusedError(501, told, "not_supported_error", param=name)
    check_most("max_tokens", given.max_tokens, settings.most_tokens)
    stop = [given.stop] if isinstance(given.stop, str) else given.stop or []
    check_stops(stop, settings)
    options = GenerationKeywords(
        max_new_tokens=max(1, given.max_tokens),
        temperature=given.temperature,
        top_k=given.top_k,
        top_p=given.top_p or 1.0,
        min_p=given.min_p,
        repetition_penalty=given.repetition_penalty,
        seed=given.seed,
        stop=[each for each in stop if each] or None,
    )
    text = body.text_input
    code = Surroundings(text, given.suffix) if given.suffix else taken_apart(text, settings)
    return Ask((code,), options, 1, model, stream, warms=given.max_tokens == 0)


def answer(model: str, done: Completion, *, empty: bool) -> Answer:
    """A completion as a client has it. ``empty``: nothing was asked to be written."""
    return {"model_name": model, "text_output": "" if empty else done.text}


def event(model: str, piece: Piece, *, empty: bool) -> Answer:
    """An event of a stream."""
    text = "" if empty else piece.text
    return {"model_name": model, "text_output": text, "done": piece.finish_reason is not None}


def server() -> Answer:
    """What there is to know of the server."""
    return {"name": "sc2onnx", "version": __version__, "extensions": ["generate"]}


def facts(model: str) -> Answer:
    """What there is to know of a model: a text goes in and one comes out."""
    told = {"name": model, "versions": [], "platform": "onnx_onnxv1"}
    return {**told, "inputs": [_text("text_input")], "outputs": [_text("text_output")]}


def _text(name: str) -> Answer:
    return {"name": name, "datatype": "BYTES", "shape": [1]}


def error(refusal: RefusedError) -> Answer:
    """A refusal: a text."""
    return {"error": refusal.message}
