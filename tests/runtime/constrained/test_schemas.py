"""JSON of random schemas is what they allow, as another library sees it."""

from __future__ import annotations

import json
import os
from collections import Counter
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


def test_whatever_a_schema_allows_comes_out_valid(model: sc2onnx.Model) -> None:
    ended = Counter[str]()
    schemas = [schema(seed) for seed in range(COUNT)]
    for begin in range(0, COUNT, 8):
        some = schemas[begin : begin + 8]
        tasks = [_asked(model, each, begin + number) for number, each in enumerate(some)]
        for each, task in zip(some, tasks, strict=True):
            done = task.result()
            ended[done.finish_reason] += 1
            if done.finish_reason == "stop":
                assert _valid(each, done.text), (each, done.text)
    print(dict(ended))
    assert ended["stop"] >= 0.8 * COUNT  # others have no bound of their own


def _asked(model: sc2onnx.Model, wanted: Schema, seed: int) -> Task:
    """Half of them drawn at random, half greedily."""
    prompt = f"def f{seed}(x):\n    return "
    return model.submit(
        prompt,
        json_schema=wanted,
        max_new_tokens=MOST,
        temperature=1.0 if seed % 2 else 0.0,
        seed=seed,
        heal=seed % 3 == 0,
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
