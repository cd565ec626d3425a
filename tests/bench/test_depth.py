"""A placed sequence is as long, as large and as shaped as one that was computed."""

from __future__ import annotations

import numpy as np
import pytest

import sc2onnx
from sc2onnx.bench.depth import noise, placed
from sc2onnx.runtime.cache.shape import CacheShape
from sc2onnx.runtime.engine.stacks import StackSeat

TOKEN = [7]


def seat_of(sequence: sc2onnx.TokenSequence) -> StackSeat:
    assert isinstance(sequence.seat, StackSeat)
    return sequence.seat


@pytest.mark.parametrize("depth", [1, 63, 256, 257, 700, 2000])
def test_a_placed_sequence_is_shaped_as_a_computed_one(model: sc2onnx.Model, depth: int) -> None:
    with model.sequence() as computed, placed(model, depth) as there:
        computed.append(np.random.default_rng(1).integers(0, 4096, depth), None)
        for name in ("length", "nbytes", "rewindable", "earliest", "room"):
            assert getattr(there.seat, name) == getattr(computed.seat, name)
        ours, theirs = seat_of(there).cache, seat_of(computed).cache
        assert ours.capacity == theirs.capacity
        assert ours.written.tolist() == theirs.written.tolist()
        assert [buffer.shape for buffer in ours.buffers] == [
            buffer.shape for buffer in theirs.buffers
        ]


@pytest.mark.parametrize("depth", [0, 40, 700])
def test_it_can_go_on_and_back(model: sc2onnx.Model, depth: int) -> None:
    with placed(model, depth) as sequence:
        first = sequence.append(TOKEN, "last")
        assert first is not None
        assert np.isfinite(first).all()
        sequence.rewind(1)
        second = sequence.append(TOKEN, "last")
        assert np.array_equal(first, np.asarray(second))
        assert len(sequence) == depth + 1


def test_every_slot_is_memory_that_was_written(model: sc2onnx.Model) -> None:
    with placed(model, 700) as sequence:
        cache = seat_of(sequence).cache
        assert cache.capacity == cache.shape.capacity
        for buffer in cache.buffers:
            assert np.count_nonzero(buffer) == buffer.size
            # no subnormal numbers
            assert np.abs(buffer[np.abs(buffer) > 0]).min() > np.finfo(np.float32).tiny


def test_nothing_is_placed_twice(model: sc2onnx.Model) -> None:
    with placed(model, 5) as sequence, pytest.raises(AssertionError):
        sequence.place(9, noise(model.cache_shape, model.cache_shape.capacity))


def test_its_cache_counts_as_the_models(model: sc2onnx.Model) -> None:
    before = model.memory_footprint().cache
    with placed(model, 300) as sequence:
        assert model.memory_footprint().cache - before == sequence.seat.nbytes > 0
    assert model.memory_footprint().cache == before


def test_opaque_slots_are_filled_with_what_is_sane_as_any_float() -> None:
    shape = CacheShape(
        1, 2, width=20, window=100, context=1000, capacity=192, dtype="uint8", turned=False, tile=16
    )
    filled = noise(shape, 192)
    assert filled.shape == (2, 192, 20)
    for shift in range(4):
        floats = np.ascontiguousarray(filled.reshape(-1)[shift : shift - 4 or None]).view("<f4")
        assert 4e-4 < floats.min() < floats.max() < 0.13
