"""An adapter's files come from strangers: what is wrong with them is said, and nothing is made."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sc2onnx.bundle.adapter_facts import AdapterFacts
from sc2onnx.bundle.adapters import FACTS_FILE, MATRICES_FILE, matrix_name
from sc2onnx.bundle.facts import ModelFacts
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import AdapterError
from sc2onnx.runtime.ort.adapter_file import read_adapter
from tests.adapters import ATTENTION, describe, matrices, write

A = matrix_name(0, "self_attn.q_proj", "A")
B = matrix_name(0, "self_attn.q_proj", "B")
Found = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module")
def facts(bundle: Path) -> ModelFacts:
    return Manifest.read(bundle).model


@pytest.fixture
def found(facts: ModelFacts) -> Found:
    return matrices(facts, 2, ATTENTION)


def test_what_was_written_is_read(facts: ModelFacts, found: Found, tmp_path: Path) -> None:
    for place in (write(tmp_path / "x", found), tmp_path / "x" / MATRICES_FILE):
        described, pairs = read_adapter(place, facts)
        assert described.rank == 2
        assert len(pairs) == 2 * facts.num_layers
        np.testing.assert_array_equal(pairs[0, "self_attn.q_proj"][0], found[A])
        np.testing.assert_array_equal(pairs[0, "self_attn.q_proj"][1], found[B])


def _without(name: str) -> Callable[[Found], object]:
    return lambda found: found.pop(name)


def _with(name: str, value: npt.NDArray[Any]) -> Callable[[Found], object]:
    return lambda found: found.update({name: value})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_without(B), f"lacks {B}"),
        (_with("model.norm.lora_A", np.ones((2, 2), np.float32)), "'model.norm.lora_A', which is"),
        (
            _with(matrix_name(99, "mlp.c_fc", "A"), np.ones((256, 2), np.float32)),
            "no matrix of a model of 6 layers",
        ),
        (_with(A, np.ones((255, 2), np.float32)), r"are \(255, 2\) and \(2, 256\), expected"),
        (_with(A, np.ones((256, 3), np.float32)), r"are \(256, 3\) and \(2, 256\), expected"),
        (_with(A, np.ones((256, 2), np.int64)), r"is int64 \(256, 2\), expected a matrix"),
        (_with(A, np.ones(256, np.float32)), r"is float32 \(256,\), expected a matrix"),
        (_with(A, np.full((256, 2), np.inf, np.float32)), "numbers that are not finite"),
        (_with(A, np.full((256, 2), np.nan, np.float32)), "numbers that are not finite"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_matrices_that_do_not_fit(
    facts: ModelFacts,
    found: Found,
    tmp_path: Path,
    change: Callable[[Found], object],
    told: str,
) -> None:
    change(found)
    place = write(tmp_path / "x", found, rank=2, element="float32")
    with pytest.raises(AdapterError, match=told):
        read_adapter(place, facts)


def test_ranks_beyond_reason(facts: ModelFacts, found: Found, tmp_path: Path) -> None:
    found[A], found[B] = np.ones((256, 2000), np.float32), np.ones((2000, 256), np.float32)
    place = write(tmp_path / "x", found, rank=2)
    with pytest.raises(AdapterError, match="ranks up to 2000, its description says 2"):
        read_adapter(place, facts)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"rank": 3}, "has ranks up to 2, its description says 3"),
        ({"rank": 0}, "rank is 0, expected 1 to 1024"),
        ({"rank": True}, "AdapterFacts.rank is True, expected int"),
        ({"element": "int8"}, "element is 'int8', expected float32 or float16"),
        ({"size": 1}, "its description says 1 bytes"),
        ({"sha256": "0" * 64}, "its description says .* 000000"),
        ({"sha256": "x"}, "SHA-256 'x'"),
        ({"format_version": 2}, "format_version 2, this sc2onnx reads 1: upgrade"),
        ({"more": 1}, r"unknown fields \['more'\]"),
        ({"kind": 7}, "AdapterFacts.kind is 7"),
    ],
    ids=str,
)
def test_descriptions_that_nothing_bears_out(
    facts: ModelFacts, found: Found, tmp_path: Path, said: Mapping[str, Any], told: str
) -> None:
    place = write(tmp_path / "x", found)
    raw = json.loads((place / FACTS_FILE).read_text())
    (place / FACTS_FILE).write_text(json.dumps({**raw, **said}))
    with pytest.raises(AdapterError, match=told):
        read_adapter(place, facts)


def test_descriptions_that_are_none(facts: ModelFacts, found: Found, tmp_path: Path) -> None:
    place = write(tmp_path / "x", found)
    for text in ("", "[]", "{", '{"rank": 1, "rank": 2}', " " * (1 << 17), "\xff"):
        (place / FACTS_FILE).write_text(text, encoding="latin-1")
        with pytest.raises(AdapterError, match=r"is malformed|has format_version None"):
            read_adapter(place, facts)
    (place / FACTS_FILE).unlink()
    with pytest.raises(
        AdapterError, match=r"is no converted adapter .*sc2onnx adapter convert PEFT_DIR"
    ):
        read_adapter(place, facts)
    describe(place, found)
    (place / MATRICES_FILE).unlink()
    with pytest.raises(AdapterError, match="cannot be read"):
        read_adapter(place, facts)


def test_control_characters_do_not_get_through() -> None:
    said = AdapterFacts(1, "float32", 1, "0" * 64, source="a\x1b[31mb", base="x\ny")
    assert "\x1b" not in said.source
    assert "\n" not in said.base


def test_files_with_other_bytes_are_read_or_refused(
    facts: ModelFacts, found: Found, tmp_path: Path
) -> None:
    """Whatever a flatbuffer says, with a digest that is right."""
    place, chance = write(tmp_path / "x", found), random.Random(5)
    data = (place / MATRICES_FILE).read_bytes()
    others = [0, *range(4, 64), *range(len(data) - 4000, len(data))]
    refused = 0
    for _ in range(60):
        changed = bytearray(data)
        for place_of in chance.sample(others, 2):
            changed[place_of] = chance.randrange(256)
        (place / MATRICES_FILE).write_bytes(changed)
        describe(place, found)
        try:
            read_adapter(place, facts)
        except AdapterError:
            refused += 1
    assert refused > 5
