"""The records of keywords: as type checkers see them, and as they are checked."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from sc2onnx.errors import RequestError, SamplingError
from sc2onnx.runtime.choose.parameters import SamplingParameters
from sc2onnx.runtime.infill_options import InfillKeywords, InfillOptions
from sc2onnx.runtime.load_options import LoadKeywords, LoadOptions
from sc2onnx.runtime.options import GenerationKeywords, GenerationOptions

RECORDS = [
    (LoadKeywords, LoadOptions),
    (GenerationKeywords, GenerationOptions),
    (InfillKeywords, InfillOptions),
]


@pytest.mark.parametrize(("keywords", "options"), RECORDS)
def test_each_keyword_stands_in_both(keywords: Any, options: Any) -> None:
    kinds = {name: kind.__forward_arg__ for name, kind in keywords.__annotations__.items()}
    assert kinds == {field.name: field.type for field in fields(options)}


@pytest.mark.parametrize("options", [options for _, options in RECORDS])
def test_an_unknown_keyword_is_named_with_those_that_there_are(options: Any) -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'thread', expected .*"):
        options.of({"thread": 1})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"timeout": 0}, "timeout is 0, expected seconds, more than 0, or None"),
        ({"timeout": float("inf")}, "timeout is inf, expected seconds"),
        ({"timeout": True}, "timeout is True, expected seconds"),
        ({"priority": 1.5}, "priority is 1.5, expected a whole number from -1000 to 1000"),
        ({"priority": 2000}, "priority is 2000, expected a whole number from -1000 to 1000"),
    ],
)
def test_wrong_values_are_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        GenerationOptions.of(wrong)


def test_sampling_keeps_every_rule_of_a_request() -> None:
    """So that a rule is written once, in the record of sampling."""
    rules = {
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.8,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "seed": 7,
        "logit_bias": ((4, 2.0),),
        "grammar": None,
        "json_schema": None,
        "regex": "a+",
        "choices": None,
    }
    assert set(rules) == {field.name for field in fields(SamplingParameters)}
    assert GenerationOptions.of(rules).sampling == SamplingParameters(
        **rules,  # type: ignore[arg-type]
    )
    assert type(GenerationOptions().sampling) is SamplingParameters


def test_a_wrong_rule_is_refused_with_the_request() -> None:
    with pytest.raises(SamplingError, match="top_p is 2, expected more than 0 and at most 1"):
        GenerationOptions(top_p=2)
