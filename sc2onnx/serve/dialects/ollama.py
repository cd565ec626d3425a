"""Ollama's ``/api/generate``, ``/api/show``, ``/api/tags``, ``/api/ps`` and ``/api/version``: lines
of JSON, times in nanoseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from msgspec import Meta, Struct, field

from sc2onnx.bundle.manifest import Manifest
from sc2onnx.runtime.options import GenerationKeywords
from sc2onnx.runtime.results import FinishReason, Usage
from sc2onnx.runtime.text.fitting import Surroundings
from sc2onnx.serve.ask import Answer, Ask
from sc2onnx.serve.dialects.common import MOST, check_stops, ended
from sc2onnx.serve.dialects.constraints import ANY_OBJECT
from sc2onnx.serve.dialects.spelt import taken_apart
from sc2onnx.serve.refusal import RefusedError
from sc2onnx.serve.settings import Settings

TEMPLATE: Final = (
    "{{ if .Suffix }}<fim_prefix>{{ .Prompt }}<fim_suffix>{{ .Suffix }}<fim_middle>{{ else "
    "}}{{ .Prompt }}{{ end }}"
)
"""What a client looks into to see whether the middle can be filled in."""

VERSION: Final = "0.9.0"
"""Whose ``/api/generate`` this is."""

_USUAL: Final = 128
"""Tokens where a request says nothing."""


class Options(Struct):
    """How to generate. What is not listed is ignored."""

    num_predict: Annotated[int, Meta(ge=-2, le=MOST)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] = 0.8
    top_k: Annotated[int, Meta(ge=-1, le=MOST)] = 40
    top_p: Annotated[float, Meta(ge=0, le=1)] = 0.9
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    repeat_penalty: Annotated[float, Meta(gt=0, le=100)] = 1.0
    seed: Annotated[int, Meta(ge=-1, le=2**63 - 1)] | None = None
    stop: list[str] | str | None = None


class Generate(Struct):
    """``/api/generate``. ``keep_alive`` and ``num_ctx`` are ignored: models stay loaded,
    with their whole context.
    """

    model: str = ""
    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    stream: bool = True
    raw: bool = False
    format: str | dict[str, Any] | None = None
    images: list[str] | None = None
    options: Options = field(default_factory=Options)


class Show(Struct):
    """``/api/show``; older clients say ``name``."""

    model: str = ""
    name: str = ""


def ask(body: Generate, settings: Settings) -> Ask | None:
    """What a body asks for; None: an empty prompt, which asks for the model to be loaded."""
    for name in ("images", "system", "template"):
        if getattr(body, name):
            raise RefusedError(
                501, f"{name} is not supported, expected none", "not_supported_error", param=name
            )
    if not body.prompt and not body.suffix:
        return None
    options = keywords(body.options, settings, _USUAL)
    options.update(formatted(body.format))
    code = (
        Surroundings(body.prompt, body.suffix)
        if body.suffix
        else taken_apart(body.prompt, settings)
    )
    return Ask((code,), options, 1, untagged(body.model), body.stream)


def keywords(chosen: Options, settings: Settings, usual: int) -> GenerationKeywords:
    """How to generate. ``usual``: tokens where ``chosen`` says nothing of them."""
    stop = [chosen.stop] if isinstance(chosen.stop, str) else chosen.stop or []
    check_stops(stop, settings)
    asked = usual if chosen.num_predict is None or chosen.num_predict < 0 else chosen.num_predict
    return GenerationKeywords(
        max_new_tokens=max(1, min(asked, settings.most_tokens)),
        temperature=chosen.temperature,
        top_k=max(0, chosen.top_k),
        top_p=chosen.top_p or 1.0,
        min_p=chosen.min_p,
        repetition_penalty=chosen.repeat_penalty,
        seed=None if chosen.seed is None or chosen.seed < 0 else chosen.seed,
        stop=[each for each in stop if each] or None,
    )


def formatted(given: str | dict[str, Any] | None) -> GenerationKeywords:
    """What ``format`` asks for: ``json`` is an object, a dict is a schema. Raises
    :class:`~sc2onnx.serve.refusal.RefusedError`.
    """
    if not given:
        return {}
    if isinstance(given, str) and given != "json":
        raise RefusedError(400, "format is another text, expected json or a schema", param="format")
    return {"json_schema": ANY_OBJECT if isinstance(given, str) else given}


def part(name: str, text: str) -> Answer:
    """A piece of an answer."""
    return {"model": name, "created_at": now(), "response": text, "done": False}


def whole(name: str, text: str, reason: FinishReason, used: Usage) -> Answer:
    """An answer, or the last piece of one."""
    return {**part(name, text), **ending(reason, used)}


def ending(reason: FinishReason, used: Usage) -> Answer:
    """What the last piece of an answer says of all of it."""
    spent = used.waited + used.prefill + used.decode
    return {
        "done": True,
        "done_reason": ended(reason),
        "total_duration": _nanoseconds(spent),
        "load_duration": 0,
        "prompt_eval_count": used.prompt,
        "prompt_eval_duration": _nanoseconds(used.prefill),
        "eval_count": used.generated,
        "eval_duration": _nanoseconds(used.decode),
    }


def loaded(name: str) -> Answer:
    """The answer to an empty prompt."""
    return {**part(name, ""), "done": True, "done_reason": "load"}


def show(name: str, manifest: Manifest) -> Answer:
    """What there is to know of a model."""
    facts = manifest.model
    return {
        "template": TEMPLATE,
        "parameters": "",
        "capabilities": ["completion", "insert"],
        "details": _details(manifest),
        "model_info": {
            "general.architecture": "starcoder2",
            "starcoder2.context_length": facts.context_length,
        },
        "modified_at": now(),
    }


def tags(manifests: Sequence[tuple[str, Manifest]]) -> Answer:
    """The models that there are; all are loaded."""
    return {"models": [_entry(name, manifest) for name, manifest in manifests]}


def _entry(name: str, manifest: Manifest) -> Answer:
    size = manifest.weight_bytes
    return {
        "name": name,
        "model": name,
        "size": size,
        "digest": "",
        "modified_at": now(),
        "details": _details(manifest),
    }


def _details(manifest: Manifest) -> Answer:
    return {
        "format": "onnx",
        "family": "starcoder2",
        "families": ["starcoder2"],
        "quantization_level": manifest.precision,
    }


def name_of(body: Show) -> str:
    """The model that is asked about."""
    return untagged(body.model or body.name)


def untagged(model: str) -> str:
    """A name without the tag that clients add."""
    return model.removesuffix(":latest")


def error(refusal: RefusedError) -> Answer:
    """A refusal, as Ollama's clients read it."""
    return {"error": refusal.message}


def now() -> str:
    """The time, as Ollama's clients read it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _nanoseconds(seconds: float) -> int:
    return round(1e9 * max(0.0, seconds))
