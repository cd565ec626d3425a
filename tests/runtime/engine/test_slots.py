"""Seats in slots: any company, any place, copied out and back, the bits
are those of being alone.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import sc2onnx
from sc2onnx.errors import CancelledError, RewindError
from sc2onnx.runtime.engine.seats import Run
from sc2onnx.runtime.engine.slots import SlotSeat, SlotSeats
from sc2onnx.runtime.ort import binding

pytestmark = pytest.mark.kernels

TEXTS, LENGTH = 9, 700
"""Tokens of each text, past the window of 256 and around the ring of 512."""

Array = npt.NDArray[np.float32]


@pytest.fixture(scope="module", params=["int8", "float32"])
def model(request: pytest.FixtureRequest, int4_bundle: Path) -> sc2onnx.Model:
    kept: str = request.param
    return sc2onnx.load(
        int4_bundle,
        cache_type=kept,  # type: ignore[arg-type]
        kernels="on",
        packed="off",
        max_batch=4,
        prefix_memory=0,
    )


@pytest.fixture(scope="module")
def texts(model: sc2onnx.Model) -> list[npt.NDArray[np.int64]]:
    ids = model.codec.encode(Path(argparse.__file__).read_text(encoding="utf-8"), special=False)
    return [np.array(ids[50 * i : 50 * i + LENGTH], dtype=np.int64) for i in range(TEXTS)]


@pytest.fixture(scope="module")
def expected(model: sc2onnx.Model, texts: Sequence[npt.NDArray[np.int64]]) -> list[Array]:
    """Logits (LENGTH, vocab) of each text alone."""
    found = []
    for text in texts:
        with model.sequence() as sequence:
            found.append(np.asarray(sequence.append(text)))
    return found


@pytest.fixture
def seats(model: sc2onnx.Model) -> Iterator[SlotSeats]:
    gc.collect()
    with model.engine.exclusive():
        assert isinstance(model.engine.seats, SlotSeats)
        yield model.engine.seats
    gc.collect()
    assert model.memory_footprint().cache == 0


Step = Sequence[tuple[int, int, int]]
"""(text, tokens, how many of them get logits) of each run."""


def compute(
    seats: SlotSeats,
    open_: dict[int, SlotSeat],
    texts: Sequence[npt.NDArray[np.int64]],
    expected: Sequence[Array],
    step: Step,
) -> None:
    runs, firsts = [], []
    for text, count, wanted in step:
        seat = open_.setdefault(text, seats.new()) if text not in open_ else open_[text]
        firsts.append(seat.length)
        runs.append(Run(seat, texts[text][seat.length : seat.length + count], wanted))
    for (text, count, wanted), first, found in zip(step, firsts, seats.forward(runs), strict=True):
        end = first + count
        assert np.array_equal(found, expected[text][end - wanted : end])
        assert open_[text].length == end


STEPS: list[Step] = [
    [(0, 256, 1), (1, 7, 7), (2, 1, 1)],
    [(3, 100, 0), (0, 1, 1), (1, 5, 3)],
    [(3, 200, 1), (2, 30, 30), (0, 3, 3), (1, 1, 0)],
    [(1, 250, 1)],
    [(0, 250, 2), (1, 250, 2)],
    [(0, 180, 180), (1, 180, 1), (2, 9, 0), (3, 1, 1)],
]


def test_ragged_passes_have_the_bits_of_each_alone(
    seats: SlotSeats, texts: list[npt.NDArray[np.int64]], expected: list[Array]
) -> None:
    open_: dict[int, SlotSeat] = {}
    for step in STEPS:
        compute(seats, open_, texts, expected, step)


def test_more_sequences_than_slots_are_copied_out_and_come_back(
    seats: SlotSeats, texts: list[npt.NDArray[np.int64]], expected: list[Array]
) -> None:
    assert seats.slots < TEXTS
    open_: dict[int, SlotSeat] = {}
    for size in (300, 1, 250, 40):  # the last ones past the ring's end
        for text in range(TEXTS):
            compute(seats, open_, texts, expected, [(text, min(size, 256), 1)])
    out = [seat for seat in open_.values() if seat.spot.out is not None]
    assert len(out) == TEXTS - seats.slots
    assert seats.nbytes >= sum(seat.nbytes for seat in open_.values())


@pytest.mark.parametrize("length", [17, 48, 200, 256, 600])
def test_a_copy_goes_on_as_its_source_and_leaves_it_alone(
    seats: SlotSeats, texts: list[npt.NDArray[np.int64]], expected: list[Array], length: int
) -> None:
    open_: dict[int, SlotSeat] = {}
    for size in (250, 250, 110):
        compute(seats, open_, texts, expected, [(0, size, 1)])
    if length < open_[0].earliest:
        with pytest.raises(RewindError):
            open_[0].copy(length)
        return
    copy = open_[0].copy(length)
    (found,) = seats.forward([Run(copy, texts[0][length : length + 20], 20)])
    assert np.array_equal(found, expected[0][length : length + 20])
    compute(seats, open_, texts, expected, [(0, 30, 30)])
    copy.rewind(20)
    (found,) = seats.forward([Run(copy, texts[0][length : length + 3], 3)])
    assert np.array_equal(found, expected[0][length : length + 3])


def test_a_pass_that_fails_leaves_all_as_they_were(
    seats: SlotSeats,
    texts: list[npt.NDArray[np.int64]],
    expected: list[Array],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    open_: dict[int, SlotSeat] = {}
    compute(seats, open_, texts, expected, [(0, 60, 1), (1, 20, 1)])
    with monkeypatch.context() as patch:
        patch.setattr(binding.Step, "run", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            compute(seats, open_, texts, expected, [(0, 30, 1), (1, 20, 1)])
    compute(seats, open_, texts, expected, [(0, 3, 3), (1, 4, 4)])


def test_after_a_pass_was_stopped_the_next_one_computes(
    seats: SlotSeats,
    texts: list[npt.NDArray[np.int64]],
    expected: list[Array],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    open_: dict[int, SlotSeat] = {}
    compute(seats, open_, texts, expected, [(0, 60, 1)])
    run = binding.Step.run

    def stopped(step: binding.Step, *arguments: Any, **options: Any) -> Array:
        seats.cancel()
        return run(step, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(binding.Step, "run", stopped)
        with pytest.raises(CancelledError):
            compute(seats, open_, texts, expected, [(0, 30, 1)])
    compute(seats, open_, texts, expected, [(0, 30, 1)])


def test_what_is_left_is_given_back(
    seats: SlotSeats, texts: list[npt.NDArray[np.int64]], expected: list[Array]
) -> None:
    open_: dict[int, SlotSeat] = {}
    compute(seats, open_, texts, expected, [(0, 256, 1), (1, 100, 1)])
    bytes_of = seats.shape.nbytes // seats.shape.capacity
    assert seats.nbytes == (256 + 112) * bytes_of  # in tiles of 16
    open_[0].clear()
    assert open_[0].length == 0
    assert seats.nbytes == (256 + 112) * bytes_of  # it waits to be used again
    seats.tidy()
    assert seats.nbytes == 112 * bytes_of
    del open_[1]
    gc.collect()
    seats.tidy()
    assert seats.nbytes == 0
