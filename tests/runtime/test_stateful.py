"""Sequences, requests, reuse and drafts in any order, against recomputation from scratch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

import sc2onnx
from sc2onnx.errors import RewindError
from sc2onnx.runtime.choose.parameters import SamplingParameters
from sc2onnx.runtime.engine.sequence import TokenSequence

CODE = Path(argparse.__file__).read_text(encoding="utf-8")
TOLERANCE = 1e-5  # of the largest logit, for fp32; int8 has none
LONGEST = 900  # tokens of a sequence: the window is 256, the ring has 512 slots
SETTINGS = settings(
    max_examples=8,
    stateful_step_count=14,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
places, numbers = st.sampled_from([0, 0, 40, 3000]), st.integers(0, 2)


class Requests(RuleBasedStateMachine):
    """One model that reuses and drafts by default, with up to three open sequences, and one that
    computes everything plainly.
    """

    def __init__(self, fast: sc2onnx.Model, plain: sc2onnx.Model, ids: list[int]) -> None:
        super().__init__()
        self.fast, self.plain, self.ids = fast, plain, ids
        self.exact = plain.manifest.quantization is not None
        self.open: dict[int, tuple[TokenSequence, list[int]]] = {}
        fast.forget()

    def scratch(self, tokens: list[int], count: int) -> npt.NDArray[np.float32]:
        """Logits of the last ``count`` tokens, of all in one call."""
        with self.plain.sequence() as sequence:
            return np.asarray(sequence.append(tokens))[-count:]

    @rule(number=numbers, place=places, count=st.one_of(st.integers(1, 40), st.integers(200, 300)))
    def append(self, number: int, place: int, count: int) -> None:
        sequence, held = self.open.setdefault(number, (self.fast.sequence(), []))
        added = self.ids[place + len(held) :][: min(count, LONGEST - len(held))]
        if not added:
            return
        found = np.asarray(sequence.append(added))
        held += added
        expected = self.scratch(held, len(added))
        if self.exact:
            assert np.array_equal(found, expected)
        else:
            assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
            assert np.array_equal(found.argmax(axis=1), expected.argmax(axis=1))
        assert sequence.length == len(held)

    @precondition(lambda self: self.open)
    @rule(number=numbers, count=st.one_of(st.integers(1, 60), st.integers(200, 300)))
    def rewind(self, number: int, count: int) -> None:
        if number not in self.open:
            return
        sequence, held = self.open[number]
        if count > len(held) or sequence.rewindable < count < len(held):
            with pytest.raises(RewindError):
                sequence.rewind(count)
        else:
            sequence.rewind(count)
            del held[len(held) - count :]
        assert sequence.length == len(held)

    @rule(number=numbers)
    def close(self, number: int) -> None:
        if number in self.open:
            self.open.pop(number)[0].close()

    @rule(
        place=places,
        length=st.one_of(st.integers(1, 60), st.integers(200, 700)),
        count=st.integers(1, 24),
        seed=st.none() | st.integers(0, 9),
    )
    def generate(self, place: int, length: int, count: int, seed: int | None) -> None:
        sampling = (
            SamplingParameters() if seed is None else SamplingParameters(temperature=0.9, seed=seed)
        )
        options: dict[str, Any] = {"max_new_tokens": count, "sampling": sampling, "stop_tokens": ()}
        prompt = self.ids[place : place + length]
        found, expected = (
            [token.id for token in model.generate_tokens(prompt, **options)]
            for model in (self.fast, self.plain)
        )
        assert found == expected

    @rule()
    def forget(self) -> None:
        self.fast.forget()

    def teardown(self) -> None:
        for sequence, _ in self.open.values():
            sequence.close()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_nothing_depends_on_what_came_before(
    bundle: Path, int8_bundle: Path, precision: str
) -> None:
    directory = bundle if precision == "fp32" else int8_bundle
    fast, plain = (
        sc2onnx.load(directory, packed="off"),
        sc2onnx.load(directory, packed="off", speculate=False, prefix_memory=0),
    )
    assert fast.speculates
    ids = plain.codec.encode(CODE)[:5000]

    class Bound(Requests):
        def __init__(self) -> None:
            super().__init__(fast, plain, ids)

    run_state_machine_as_test(Bound, settings=SETTINGS)
