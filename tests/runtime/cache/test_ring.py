"""The ring against a brute-force model of it: which position really lies in which slot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import RequestError, RewindError
from sc2onnx.runtime.cache.ring import RingCache
from sc2onnx.runtime.cache.shape import CacheShape, default_capacity, first_capacity, round_up
from sc2onnx.runtime.cache.slots import TILE, cache_shape, slot_bytes
from tests.runtime.caches import rows_of, stacked


class Slots:
    """Slot -> position last written there, by doing it."""

    def __init__(self, capacity: int) -> None:
        self.held: dict[int, int] = {}
        self.capacity = capacity

    def write(self, past: int, step: int) -> None:
        self.held.update({p % self.capacity: p for p in range(past, past + step)})

    def sees_exactly_the_window(self, past: int, step: int, window: int) -> bool:
        """Whether the graph's formula, applied after a step, shows each query its window, whole
        and from the right slots.
        """
        last = past + step - 1
        for query in range(past, past + step):
            seen = set()
            for slot in range(self.capacity):
                position = last - ((last - slot) % self.capacity)
                if position >= 0 and 0 <= query - position < window:
                    if self.held.get(slot) != position:
                        return False
                    seen.add(position)
            if seen != set(range(max(0, query - window + 1), query + 1)):
                return False
        return True


def shape(window: int, capacity: int, context: int = 10_000) -> CacheShape:
    return CacheShape(
        layers=1, kv_heads=1, width=2, window=window, context=context, capacity=capacity
    )


@settings(max_examples=300, deadline=None)
@given(data=st.data(), window=st.integers(1, 20), extra=st.integers(0, 20))
def test_every_allowed_step_is_exact_and_every_refused_rewind_would_not_be(
    data: st.DataObject, window: int, extra: int
) -> None:
    cache, slots, capacity = (
        RingCache(shape(window, window + extra), rows=1),
        Slots(window + extra),
        window + extra,
    )
    assert cache.capacity == capacity  # below the granule it is allocated whole
    for _ in range(data.draw(st.integers(1, 12))):
        length = int(cache.lengths[0])
        if length and data.draw(st.booleans()):
            count = data.draw(st.integers(1, length))
            if count > cache.rewindable() and count < length:
                with pytest.raises(
                    RewindError, match=r"cannot rewind \d+ tokens: the sliding window"
                ):
                    cache.rewind(count)
                trial = Slots(capacity)
                trial.held = dict(slots.held)
                trial.write(length - count, 1)
                assert not trial.sees_exactly_the_window(length - count, 1, window)
                continue
            cache.rewind(count)
        past, step = int(cache.lengths[0]), data.draw(st.integers(1, cache.longest_step()))
        cache.begin(step)
        slots.write(past, step)
        assert slots.sees_exactly_the_window(past, step, window)
        cache.commit(step)


@settings(max_examples=100, deadline=None)
@given(window=st.integers(1, 20), extra=st.integers(0, 20), length=st.integers(0, 100))
def test_the_longest_step_is_the_longest_that_is_exact(
    window: int, extra: int, length: int
) -> None:
    slots = Slots(window + extra)
    slots.write(0, length)
    longest = shape(window, window + extra).room(length)
    assert longest >= 1
    slots.write(length, longest + 1)
    assert not slots.sees_exactly_the_window(length, longest + 1, window)


def test_a_failed_step_leaves_the_rewinds_it_destroyed_refused() -> None:
    cache = RingCache(shape(4, 8), rows=1)
    for step in (8, 5, 3):
        cache.begin(step)
        cache.commit(step)
    allowed = cache.rewindable()
    cache.begin(5)  # not committed: the step failed
    assert cache.lengths[0] == 16
    assert cache.rewindable() == max(0, allowed - 5)


def test_what_info_predicts_is_what_a_prefilled_cache_takes() -> None:
    for tokens in (1, 64, 65, 300, 1000):
        cache = RingCache(shape(window=100, capacity=384), rows=1)
        for _ in range(tokens // 200):
            cache.begin(200)
            cache.commit(200)
        if tokens % 200:
            cache.begin(tokens % 200)
        assert cache.capacity >= first_capacity(tokens, 384) >= min(tokens, 384)
        assert first_capacity(tokens, 384) % 64 == 0


def test_growth_keeps_every_token_and_stops_at_the_full_capacity() -> None:
    cache = RingCache(shape(window=1000, capacity=1100), rows=2)
    filled = 0
    capacities = set()
    while filled < 1000:
        cache.begin(10)
        for buffer in cache.by_slot:
            buffer[:, :, filled : filled + 10] = np.arange(filled, filled + 10)[None, None, :, None]
        cache.commit(10)
        filled += 10
        capacities.add(cache.capacity)
        assert all(
            (buffer[:, 0, :filled, 0] == np.arange(filled)).all() for buffer in cache.by_slot
        )
    assert sorted(capacities)[0] == 64
    assert all(
        b <= a * 1.25 + 64 for a, b in zip(sorted(capacities), sorted(capacities)[1:], strict=False)
    )
    for _ in range(30):
        cache.begin(10)
        cache.commit(10)
    assert cache.capacity == 1100
    assert cache.nbytes == 2 * 2 * 1100 * 2 * 4


def test_the_cache_is_at_full_capacity_before_it_wraps() -> None:
    cache = RingCache(shape(window=100, capacity=228), rows=1)
    for _ in range(400):
        cache.begin(1)
        cache.commit(1)
        assert cache.capacity == 228 or cache.lengths[0] <= cache.capacity
    assert cache.rewindable() == 228 - 100 + 1 == cache.shape.rewindable


def test_rewinding_everything_always_works() -> None:
    cache = RingCache(shape(4, 6), rows=1)
    for _ in range(20):
        cache.begin(1)
        cache.commit(1)
    cache.rewind(20)
    assert cache.longest_step() == 6
    with pytest.raises(RewindError, match="cannot rewind 1 tokens of a sequence of 0"):
        cache.rewind(1)


def test_rows_keep_their_own_lengths_when_stacked_and_kept() -> None:
    parts = []
    for length in (3, 90, 12):
        part = RingCache(shape(10, 128), rows=1)
        part.begin(length)
        part.commit(length)
        for buffer in part.by_slot:
            buffer[...] = length
        parts.append(part)
    joined = stacked(parts)
    assert joined.lengths.tolist() == [3, 90, 12]
    assert joined.capacity == 128
    placed = RingCache(shape(10, 128), rows=4)
    for row, part in enumerate(parts):
        placed.place(row, part)
    more = RingCache.stacked(4, [(part, 0) for part in parts])
    assert [*placed.lengths, *placed.written] == [*more.lengths, *more.written]
    assert all(
        np.array_equal(one, other) for one, other in zip(placed.by_slot, more.by_slot, strict=True)
    )
    joined = rows_of(joined, [2, 0])
    assert joined.lengths.tolist() == [12, 3]
    assert [float(joined.by_slot[0][row, 0, 0, 0]) for row in range(2)] == [12.0, 3.0]


def test_capacity_below_the_window_is_refused() -> None:
    with pytest.raises(
        RequestError, match=r"cache capacity is 9 slots, expected at least the window of 10"
    ):
        shape(window=10, capacity=9)


@pytest.mark.parametrize(
    ("window", "context", "chunk", "expected"),
    [
        (4096, 16384, 256, 4352),
        (256, 2048, 256, 512),
        (16384, 16384, 256, 16384),
        (1, 100, 1, 64),
        (8, 20, 256, 20),
    ],
)
def test_default_capacity(window: int, context: int, chunk: int, expected: int) -> None:
    assert default_capacity(window, context, chunk) == expected


WIDTH = 5


def tiled(window: int, capacity: int) -> CacheShape:
    return CacheShape(1, 1, WIDTH, window, 10_000, capacity, "uint8", turned=False, tile=TILE)


def slot(cache: RingCache, number: int, row: int, position: int) -> npt.NDArray[np.uint8]:
    """The bytes of a slot, to be read and written, in an order that is no numpy slice of slots:
    byte b of slot s is the (16 b + s)-th of its tile.
    """
    at = position % cache.capacity
    tile: npt.NDArray[np.uint8] = cache.buffers[number][row, 0].reshape(-1, WIDTH * TILE)[
        at // TILE
    ]
    return tile[at % TILE :: TILE]


def content(position: int, number: int, mark: int) -> npt.NDArray[np.uint8]:
    return np.array([position % 251, position // 251, number, mark, 7], np.uint8)


def feed(cache: RingCache, step: int, marks: list[int]) -> None:
    """What the kernel does with a step."""
    cache.begin(step)
    for row, mark in enumerate(marks):
        for number in range(2):
            for position in range(cache.length(row), cache.length(row) + step):
                slot(cache, number, row, position)[:] = content(position, number, mark)
    cache.commit(step)


def check(cache: RingCache, marks: list[int]) -> None:
    """Everything that the next token would read is there."""
    assert cache.capacity % TILE == 0
    for row, mark in enumerate(marks):
        for position in range(
            max(0, cache.length(row) + 1 - cache.shape.window), cache.length(row)
        ):
            assert all(
                (slot(cache, number, row, position) == content(position, number, mark)).all()
                for number in range(2)
            )


@settings(max_examples=200, deadline=None)
@given(data=st.data(), window=st.integers(1, 90), extra=st.integers(0, 40))
def test_tiles_are_copied_whole_whatever_is_done_with_them(
    data: st.DataObject, window: int, extra: int
) -> None:
    shape = tiled(window, round_up(window + extra, TILE))
    cache, marks = RingCache(shape, rows=1), [1]
    for _ in range(data.draw(st.integers(1, 8))):
        feed(cache, data.draw(st.integers(1, min(cache.longest_step(), 70))), marks)
        check(cache, marks)
        action = data.draw(st.sampled_from(["rewind", "copy", "stack", "keep"]))
        if action == "rewind":
            cache.rewind(data.draw(st.integers(0, cache.rewindable())))
        elif action == "copy" and len(marks) == 1 and (least := cache.earliest()) <= cache.length():
            length = data.draw(st.integers(max(1, least), cache.length()))
            copy = cache.copy(length, data.draw(st.integers(0, 100)))
            check(copy, marks)
            feed(copy, 1, [99])  # the copy is its own
            check(cache, marks)
            cache = cache.copy(length)
        elif action == "stack":
            other = RingCache(shape, rows=1)
            feed(other, data.draw(st.integers(1, min(other.longest_step(), 30))), [len(marks) + 1])
            cache, marks = stacked([cache, other]), [*marks, len(marks) + 1]
        elif action == "keep":
            rows = data.draw(st.lists(st.sampled_from(range(len(marks))), min_size=1, unique=True))
            cache = rows_of(cache, rows)
            marks = [marks[row] for row in rows]
        check(cache, marks)


def test_a_context_that_is_no_multiple_of_a_tile_takes_the_next(int4_bundle: Path) -> None:
    manifest = Manifest.read(int4_bundle)
    manifest = replace(manifest, model=replace(manifest.model, context_length=100))
    assert cache_shape(manifest).capacity == 100
    shape = cache_shape(manifest, kept="float32")
    assert (shape.capacity, shape.rewindable) == (112, 100)
    cache = RingCache(shape, rows=1)
    cache.begin(100)
    assert cache.capacity == 112
    assert {buffer.shape for buffer in cache.buffers} == {
        (1, manifest.model.num_kv_heads, 112, 4 * manifest.model.head_dim)
    }
    assert cache.nbytes == sum(buffer.nbytes for buffer in cache.buffers) == shape.nbytes


def test_bytes_of_a_slot() -> None:
    assert slot_bytes("int8", 128) == 132
    assert slot_bytes("float32", 128) == 512
