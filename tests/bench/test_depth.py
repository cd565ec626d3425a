from __future__ import annotations

import numpy as np
import pytest

import sc2onnx
from sc2onnx.bench.depth import noise, place, placed
from sc2onnx.runtime.cache.ring import RingCache
from sc2onnx.runtime.cache.shape import CacheShape

TOKEN = np.array([[7]])


@pytest.mark.parametrize("depth", [1, 63, 256, 257, 700, 2000])
def test_a_placed_sequence_is_shaped_as_a_computed_one(model: sc2onnx.Model, depth: int) -> None:
    computed = model._decoder()
    computed.append(np.random.default_rng(1).integers(0, 4096, (1, depth)), None)
    there = placed(model, depth)
    for name in ("capacity", "nbytes"):
        assert getattr(there.cache, name) == getattr(computed.cache, name)
    assert there.cache.length() == computed.cache.length() == depth
    assert there.cache.written.tolist() == computed.cache.written.tolist()
    assert there.cache.rewindable() == computed.cache.rewindable()
    assert [buffer.shape for buffer in there.cache.buffers] == [buffer.shape for buffer in computed.cache.buffers]
    for decoder in (there, computed):
        decoder.close()


@pytest.mark.parametrize("depth", [0, 40, 700])
def test_it_can_go_on_and_back(model: sc2onnx.Model, depth: int) -> None:
    decoder = placed(model, depth)
    first = decoder.append(TOKEN, "last")
    assert first is not None
    assert np.isfinite(first).all()
    decoder.rewind(1)
    second = decoder.append(TOKEN, "last")
    assert np.array_equal(first, np.asarray(second))
    assert decoder.cache.length() == depth + 1
    decoder.close()


def test_every_slot_is_memory_that_was_written() -> None:
    cache = RingCache(CacheShape(layers=2, kv_heads=2, width=8, window=100, context=1000, capacity=192), rows=2)
    place(cache, 500)
    assert cache.capacity == 192
    for buffer in cache.buffers:
        assert np.count_nonzero(buffer) == buffer.size
        assert np.abs(buffer[np.abs(buffer) > 0]).min() > np.finfo(np.float32).tiny  # no subnormal numbers
    assert cache.lengths.tolist() == [500, 500]


def test_nothing_is_placed_twice(model: sc2onnx.Model) -> None:
    decoder = placed(model, 5)
    with pytest.raises(AssertionError):
        place(decoder.cache, 9)
    decoder.close()


def test_its_cache_counts_as_the_models(model: sc2onnx.Model) -> None:
    before = model.memory_footprint().cache
    decoder = placed(model, 300)
    assert model.memory_footprint().cache - before == decoder.cache.nbytes > 0
    decoder.close()


def test_opaque_slots_are_filled_with_what_is_sane_as_any_float() -> None:
    shape = CacheShape(1, 2, width=20, window=100, context=1000, capacity=192, dtype="uint8", turned=False, tile=16)
    filled = noise(shape, 192)
    assert filled.shape == (2, 192, 20)
    for shift in range(4):
        floats = np.ascontiguousarray(filled.reshape(-1)[shift : shift - 4 or None]).view("<f4")
        assert 4e-4 < floats.min() < floats.max() < 0.13
