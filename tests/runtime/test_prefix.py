"""The store against a brute-force model of it: caches whose slots hold the very tokens, so that
whatever is given out can be read.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sc2onnx.runtime.cache.ring import RingCache
from sc2onnx.runtime.cache.shape import CacheShape
from sc2onnx.runtime.engine.prefix import Kept, Match, PrefixStore, common
from sc2onnx.runtime.engine.seats import Seat
from sc2onnx.runtime.engine.stacks import StackSeat, StackSeats

WINDOW, CAPACITY = 20, 100
SHAPE = CacheShape(layers=1, kv_heads=1, width=1, window=WINDOW, context=10_000, capacity=CAPACITY)


class Owner(StackSeats):
    """Seats of the shape, without a model."""

    def __init__(self) -> None:
        self.shape, self._open, self._stack = SHAPE, [], None


OWNER = Owner()


def fresh(shape: CacheShape = SHAPE, slots: int = 0) -> StackSeat:
    return StackSeat(OWNER, RingCache(shape, rows=1, slots=slots))


def cache_of(seat: Seat) -> RingCache:
    assert isinstance(seat, StackSeat)
    return seat.cache


def feed(seat: Seat, tokens: list[int]) -> None:
    """Append as a step would; a token's key is the token."""
    cache = cache_of(seat)
    for token in tokens:
        cache.begin(1)
        for buffer in cache.by_slot:
            buffer[0, 0, cache.length() % cache.capacity, 0] = token
        cache.commit(1)


def kept(tokens: list[int], asked: int | None = None) -> Kept:
    seat = fresh()
    feed(seat, tokens)
    return Kept(np.array(tokens, dtype=np.int64), len(tokens) if asked is None else asked, seat)


def holds(seat: Seat, tokens: npt.NDArray[np.int64]) -> bool:
    """Whether a next token would read exactly these: as many, and all
    that its window still sees.
    """
    cache = cache_of(seat)
    length = cache.length()
    seen = range(max(0, length - WINDOW + 1), length)
    return length <= len(tokens) and all(
        buffer[0, 0, p % cache.capacity, 0] == tokens[p] for buffer in cache.by_slot for p in seen
    )


texts = st.builds(
    lambda head, size, tail: [*([head] * size), *tail],
    st.integers(1, 2),
    st.integers(0, 160),
    st.lists(st.integers(1, 3), min_size=1, max_size=90),
)


@settings(max_examples=300, deadline=None)
@given(
    requests=st.lists(st.tuples(texts, st.integers(0, 30)), min_size=1, max_size=10),
    limit=st.integers(0, 4 * SHAPE.nbytes),
)
def test_whatever_is_given_out_is_exact_its_takers_alone_and_the_longest_there_is(
    requests: list[tuple[list[int], int]], limit: int
) -> None:
    store = PrefixStore(limit)
    for text, written in requests:
        prompt = np.array(text, dtype=np.int64)
        before = list(store.sequences)
        shared = {id(k): min(common(k.tokens, prompt), len(prompt) - 1) for k in before}
        usable = [
            k for k in before if k.seat.earliest <= shared[id(k)] and Match.of(k, prompt).useful
        ]
        seat = store.take(prompt)
        assert (seat is None) == (not usable)
        if seat is not None:
            assert seat.length == max(shared[id(k)] for k in usable)
            assert holds(seat, prompt)
            assert not any(seat is other for other in store.seats)
        for k in store.sequences:
            assert holds(k.seat, k.tokens)  # a copy left its source alone
        seat = seat or fresh()
        tokens = [*text, *range(100, 100 + written)]
        feed(seat, tokens[seat.length :])
        put = Kept(np.array(tokens, dtype=np.int64), len(text), seat)
        store.put(put)
        assert store.nbytes <= limit
        latest = list(store.sequences)
        if seat.nbytes <= limit:
            assert any(k.covers(put) for k in latest[-1:])
        for i, k in enumerate(latest):
            assert not any(k.covers(other) for j, other in enumerate(latest) if i != j)


@settings(max_examples=200, deadline=None)
@given(size=st.integers(1, 300), back=st.integers(0, 120), room=st.integers(0, 300))
def test_a_copy_goes_on_as_the_original_would(size: int, back: int, room: int) -> None:
    original = kept(list(range(size)))
    length = size - min(back, original.seat.rewindable)
    copied = original.seat.copy(length, room)
    assert copied.length == length
    assert cache_of(copied).capacity >= min(room, CAPACITY)
    assert holds(copied, original.tokens)
    feed(copied, list(range(1000, 1040)))
    assert holds(copied, np.array([*range(length), *range(1000, 1040)]))
    assert holds(original.seat, original.tokens)


def test_the_least_recently_used_goes_first() -> None:
    a, b, c = ([head] * 90 for head in (1, 2, 3))
    store = PrefixStore(2 * SHAPE.nbytes)
    store.put(kept(a))
    store.put(kept(b))
    taken = store.take(np.array([*a, 9]))
    assert taken is not None
    store.put(Kept(np.array(a), 90, taken))
    store.put(kept(c))
    assert [k.tokens[0] for k in store.sequences] == [1, 3]


@pytest.mark.parametrize(
    ("held", "asked", "prompt", "expected", "edited"),
    [
        ([1] * 300, 300, [1] * 300, Match(299, 0, 1), True),
        # the model's own words are not missed
        ([1] * 300, 100, [*[1] * 90, 5], Match(90, 10, 0), True),
        # a typed character
        (
            [1] * 3000 + [2] * 400 + [3] * 600,
            4000,
            [1] * 3000 + [2] * 399 + [4] + [3] * 600,
            Match(3399, 1, 600),
            True,
        ),
        # another file, the same context
        ([1] * 3000 + [2] * 1000, 4000, [1] * 3000 + [3] * 1000, Match(3000, 1000, 0), False),
        ([1] * 5 + [2] * 1995, 2000, [1] * 5 + [3] * 10, Match(5, 1995, 0), False),
        # never more lost than shared
        ([1] * 2 + [2] * 40, 42, [1] * 2 + [3] * 10, Match(2, 40, 0), False),
    ],
)
def test_an_edit_is_told_from_another_text(
    held: list[int], asked: int, prompt: list[int], expected: Match, edited: bool
) -> None:
    seat = fresh(CacheShape(1, 1, 1, 4000, 10_000, 4096), len(held))
    seat.cache.begin(len(held))
    seat.cache.commit(len(held))
    match = Match.of(Kept(np.array(held), asked, seat), np.array(prompt))
    assert match == expected
    assert match.edited == edited
    assert match.useful == (edited or expected.shared >= 16)


def test_what_says_nothing_new_is_not_kept_twice_but_stays_as_much_asked_for() -> None:
    store = PrefixStore(10 * SHAPE.nbytes)
    store.put(kept([1] * 50, asked=40))
    store.put(kept([1] * 60, asked=10))
    (only,) = store.sequences
    assert (len(only.tokens), only.asked) == (60, 40)
    store.put(kept([1] * 55, asked=55))
    (only,) = store.sequences
    assert (len(only.tokens), only.asked) == (60, 55)


def test_a_wrapped_sequence_does_not_stand_in_for_its_beginning() -> None:
    store = PrefixStore(10 * SHAPE.nbytes)
    store.put(kept([1] * 50))
    store.put(kept([1] * 250))
    assert len(store.seats) == 2
    taken = store.take(np.array([*[1] * 40, 2]))
    assert taken is not None
    assert taken.length == 40


def test_threads_get_a_cache_each_and_the_bound_holds() -> None:
    store, texts = PrefixStore(3 * SHAPE.nbytes), [[head] * 80 for head in range(1, 6)]
    out, lock = set[int](), threading.Lock()

    def work(turn: int) -> None:
        tokens = [*texts[turn % 5], 1000 + turn]
        prompt = np.array(tokens)
        seat = store.take(prompt) or fresh()
        with lock:
            assert id(seat) not in out
            out.add(id(seat))
        assert holds(seat, prompt)
        feed(seat, tokens[seat.length :])
        assert holds(seat, prompt)
        with lock:
            out.remove(id(seat))
        store.put(Kept(prompt, len(prompt), seat))
        # read without the lock, while others put theirs
        assert store.nbytes <= store.limit + 4 * SHAPE.nbytes

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(400)))
    assert 0 < store.nbytes <= store.limit
