"""JSON of random schemas is what they allow, as another library sees it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest

import sc2onnx
from sc2onnx.runtime.engine.task import Task
from tests.runtime.constrained.schemas import Schema, schema

jsonschema = pytest.importorskip("jsonschema")
pytest.importorskip("llguidance")

COUNT = int(os.environ.get("SC2ONNX_SCHEMAS", "60"))
"""How many; 500 take minutes."""

MOST = 300
"""Tokens of each."""

CLOSING = {
    '"': 100.0, "@": 90.0, "Z": 80.0, "}": 60.0, "]": 60.0, "-": 40.0, "null": 30.0, ",": 20.0
}  # fmt: skip
"""What is added to the logits of tokens that bring JSON to its end: a text ends rather than go on,
lists and objects rather than have one more; so do the parts of a time, an address and a pattern.
"""


def test_whatever_a_schema_allows_comes_out_valid(model: sc2onnx.Model) -> None:
    """Texts without a bound may go on for ever; these are asked for again, with a bias to ends."""
    schemas = dict(enumerate(map(schema, range(COUNT))))
    at_first = _texts(model, schemas)
    left = {seed: schemas[seed] for seed in schemas if seed not in at_first}
    afterwards = _texts(model, left, bias=closing(model))
    print(f"{len(at_first)} ended, and {len(afterwards)} of {len(left)} others with a bias to ends")
    assert len(at_first) >= 0.8 * COUNT
    assert at_first.keys() | afterwards.keys() == schemas.keys()
    for seed, text in {**at_first, **afterwards}.items():
        assert _valid(schemas[seed], text), (seed, schemas[seed], text)


def test_a_bias_to_ends_is_needed_and_is_enough(model: sc2onnx.Model) -> None:
    wanted = {"type": "array", "items": {"type": "string"}, "minItems": 2}
    how: dict[str, Any] = {"json_schema": wanted, "max_new_tokens": 60}
    assert model.generate("x = ", **how).finish_reason == "length"
    done = model.generate("x = ", logit_bias=closing(model), **how)
    assert done.finish_reason == "stop"
    assert len(json.loads(done.text)) == 2


def closing(model: sc2onnx.Model) -> dict[int, float]:
    """A bias to :data:`CLOSING`."""
    spelt = {text: model.codec.encode(text) for text in CLOSING}
    return {ids[0]: CLOSING[text] for text, ids in spelt.items()}


def _texts(
    model: sc2onnx.Model, schemas: Mapping[int, Schema], bias: Mapping[int, float] | None = None
) -> dict[int, str]:
    """The texts that end, by seed; eight at a time."""
    found = dict[int, str]()
    seeds = list(schemas)
    for begin in range(0, len(seeds), 8):
        some = seeds[begin : begin + 8]
        tasks = {seed: _asked(model, schemas[seed], seed, bias) for seed in some}
        done = {seed: task.result() for seed, task in tasks.items()}
        found |= {seed: each.text for seed, each in done.items() if each.finish_reason == "stop"}
    return found


def _asked(
    model: sc2onnx.Model, wanted: Schema, seed: int, bias: Mapping[int, float] | None
) -> Task:
    """Half of them drawn at random, half greedily."""
    prompt = f"def f{seed}(x):\n    return "
    return model.submit(
        prompt,
        json_schema=wanted,
        max_new_tokens=MOST,
        temperature=1.0 if seed % 2 else 0.0,
        seed=seed,
        heal=seed % 3 == 0,
        logit_bias=bias or {},
    )


def _valid(wanted: Schema, text: str) -> bool:
    validator = jsonschema.Draft202012Validator(wanted, format_checker=_checker())
    return bool(validator.is_valid(json.loads(text)))


def _checker() -> Any:
    """The library's own formats, and times, for which it needs another one. Years may be 0000."""
    found = jsonschema.FormatChecker(("email", "ipv4", "uuid"))
    found.checks("date-time", raises=ValueError)(_is_moment)
    found.checks("date", raises=ValueError)(lambda given: _is_moment(given, "", "T00:00:00Z"))
    found.checks("time", raises=ValueError)(lambda given: _is_moment(given, "2000-01-01T"))
    return found


def _is_moment(given: object, before: str = "", after: str = "") -> bool:
    """Whether a text is a time of RFC 3339, which has a year 0000 and seconds that are leapt."""
    if not isinstance(given, str):
        return True
    text = before + given + after
    year, rest = text[:4].replace("0000", "2000"), text[4:].upper().replace(":60", ":59")
    return bool(datetime.fromisoformat(year + rest).tzinfo)
