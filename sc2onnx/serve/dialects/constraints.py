"""What an answer has to be, in the words of OpenAI's, Mistral's and vLLM's clients."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from sc2onnx.runtime.options import GenerationKeywords
from sc2onnx.serve.refusal import RefusedError

ANY_OBJECT: Final = '{"type":"object"}'
"""The schema of a JSON object with whatever in it."""


class NamedSchema(Struct):
    """A schema and its name. What is not listed is ignored; what a schema says is always kept."""

    schema: dict[str, Any] | None = None


class ResponseFormat(Struct):
    """``response_format``. ``schema`` is llama.cpp's way to give one."""

    type: str = "text"
    json_schema: NamedSchema | None = None
    schema: dict[str, Any] | None = None


class StructuredOutputs(Struct):
    """``structured_outputs`` of vLLM. What is not listed is ignored."""

    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Any = None


class Guided(Struct, kw_only=True):
    """The fields of a request that say what the answer has to be."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None


def guided(body: Guided) -> GenerationKeywords:
    """What an answer has to be, as the runtime takes it; empty: anything.

    Raises :class:`~sc2onnx.serve.refusal.RefusedError` for several of its fields.
    """
    older = GenerationKeywords(
        json_schema=body.guided_json,
        regex=body.guided_regex,
        choices=body.guided_choice,
        grammar=body.guided_grammar,
    )
    given = {
        "response_format": response_format(body.response_format),
        "structured_outputs": _structured(body.structured_outputs),
        "guided_*": _some(older),
    }
    asked = [name for name, found in given.items() if found]
    if len(asked) > 1:
        told = f"{' and '.join(asked)} are given, expected one of them"
        raise RefusedError(400, told, param=asked[0])
    return given[asked[0]] if asked else {}


def response_format(given: ResponseFormat | None) -> GenerationKeywords:
    """What ``response_format`` asks for. Raises :class:`~sc2onnx.serve.refusal.RefusedError`."""
    if given is None or given.type == "text":
        return {}
    named = None if given.json_schema is None else given.json_schema.schema
    schema = given.schema if named is None else named
    if given.type == "json_object":
        return {"json_schema": ANY_OBJECT if schema is None else schema}
    if given.type != "json_schema" or schema is None:
        raise RefusedError(
            400,
            "response_format has another type, or no schema, expected text, json_object, or "
            "json_schema with json_schema.schema",
            param="response_format",
        )
    return {"json_schema": schema}


def _structured(given: StructuredOutputs | None) -> GenerationKeywords:
    if given is None:
        return {}
    if given.structural_tag is not None:
        told = "structural_tag is not supported, expected json, regex, choice or grammar"
        raise RefusedError(400, told, param="structured_outputs")
    schema = ANY_OBJECT if given.json is None and given.json_object else given.json
    return _some(
        GenerationKeywords(
            json_schema=schema, regex=given.regex, choices=given.choice, grammar=given.grammar
        )
    )


def _some(given: GenerationKeywords) -> GenerationKeywords:
    """Without what is None."""
    found = GenerationKeywords()
    some = {name: value for name, value in given.items() if value is not None}
    found.update(some)  # type: ignore[typeddict-item]
    return found
