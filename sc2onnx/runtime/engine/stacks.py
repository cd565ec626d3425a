"""Seats with a cache each, which is stacked with others for those that decode together.

For graphs that take a step of as many tokens of each row of the batch: a prompt is computed by
itself, and sequences that decode together are rows of one cache. Whoever joins is copied into an
empty row of it, and whoever leaves leaves one; only if there are too few or too many is the cache
made anew.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sc2onnx.runtime.adapter import Adapted
from sc2onnx.runtime.cache.ring import RingCache
from sc2onnx.runtime.cache.shape import CacheShape, round_up
from sc2onnx.runtime.engine.seats import Run
from sc2onnx.runtime.ort.binding import Step
from sc2onnx.runtime.ort.session import Session

Array = npt.NDArray[Any]


class StackSeat:
    """A sequence: a row of a cache, its own or one of several sequences."""

    def __init__(self, seats: StackSeats, cache: RingCache) -> None:
        self._seats, self.cache, self.row = seats, cache, 0

    @property
    def length(self) -> int:
        """See :class:`~sc2onnx.runtime.engine.seats.Seat`."""
        return self.cache.length(self.row)

    @property
    def room(self) -> int:
        """See :class:`~sc2onnx.runtime.engine.seats.Seat`."""
        return self.cache.shape.room(self.length)

    @property
    def rewindable(self) -> int:
        """See :class:`~sc2onnx.runtime.engine.seats.Seat`."""
        return self.cache.rewindable(self.row)

    @property
    def earliest(self) -> int:
        """See :class:`~sc2onnx.runtime.engine.seats.Seat`."""
        return self.cache.earliest(self.row)

    @property
    def nbytes(self) -> int:
        """Bytes of its row."""
        return self.cache.nbytes // max(1, self.cache.rows)

    def rewind(self, count: int) -> None:
        """See :meth:`sc2onnx.runtime.cache.ring.RingCache.rewind`."""
        self.cache.rewind(count, self.row)

    def copy(self, length: int, room: int = 0) -> StackSeat:
        """See :meth:`sc2onnx.runtime.cache.ring.RingCache.copy`."""
        return self._seats.copied(self, length, room)

    def place(self, depth: int, chunk: int, values: Array) -> None:
        """See :class:`~sc2onnx.runtime.engine.seats.Seat`.
        The cache grows and wraps as it would.
        """
        cache, done = self.cache, 0
        assert cache.rows == 1
        assert not cache.length()
        while done < depth:
            step = min(chunk, cache.longest_step(), depth - done)
            cache.begin(step)
            cache.commit(step)
            done += step
        if depth:
            cache.fill(values[:, : cache.capacity])

    def clear(self) -> None:
        """Leave the cache to the others in it, or free it."""
        self._seats.left(self)


class _Bound:
    """The step over a cache's buffers, bound anew when these are others."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._step: Step | None = None
        self._generation = -1

    def step(self, cache: RingCache) -> Step:
        """The step over the buffers as they are now. It must not keep the cache itself alive."""
        if self._step is None or self._generation != cache.generation:
            self._step = None  # which holds the old buffers
            self._step = self._session.bind(cache.buffers)
            self._generation = cache.generation
        return self._step


class StackSeats:
    """The sequences of a model, and the cache of those that decode together."""

    together = False

    def __init__(self, session: Session, shape: CacheShape) -> None:
        self.shape = shape
        self.chooses = session.chooses
        self.drafts_together = session.steps_agree and shape.window < shape.context
        self._session = session
        self._rows = _doubled if session.on_gpu else _even
        self._bound: weakref.WeakKeyDictionary[RingCache, _Bound] = weakref.WeakKeyDictionary()
        self._open: list[weakref.ref[StackSeat]] = []
        self._stack: RingCache | None = None
        self._members: list[weakref.ref[StackSeat] | None] = []  # by row of the stack
        self._running: Step | None = None

    def new(self) -> StackSeat:
        """An empty sequence. Raises :class:`MemoryError`."""
        return self._opened(RingCache(self.shape, rows=1, storage=self._session.storage))

    def _opened(self, cache: RingCache) -> StackSeat:
        seat = StackSeat(self, cache)
        self._open = [reference for reference in self._open if reference() is not None]
        self._open.append(weakref.ref(seat))
        return seat

    @property
    def nbytes(self) -> int:
        """Bytes of the caches of all open sequences."""
        seats = [seat for reference in list(self._open) if (seat := reference()) is not None]
        return sum(
            cache.nbytes for cache in {id(seat.cache): seat.cache for seat in seats}.values()
        )

    def copied(self, source: StackSeat, length: int, room: int) -> StackSeat:
        """A sequence with the first tokens of another."""
        cache = source.cache
        single = cache if cache.rows == 1 else cache.taken(source.row)
        return self._opened(single.copy(length, room))

    def forward(self, runs: Sequence[Run], *, ids: bool = False) -> list[Array]:
        """See :class:`~sc2onnx.runtime.engine.seats.Seats`."""
        seats = [run.seat for run in runs if isinstance(run.seat, StackSeat)]
        assert len(seats) == len(runs)
        found: dict[int, Array] = {}
        apart = [i for i, run in enumerate(runs) if run.prefill]
        others = [i for i, run in enumerate(runs) if not run.prefill]
        if len(others) == 1:
            apart, others = apart + others, []
        for i in apart:
            found[i] = self._single(seats[i], runs[i], ids)
        if others:
            stack = self._stacked([seats[i] for i in others])
            results = self._together(stack, [(seats[i], runs[i]) for i in others], ids)
            found |= dict(zip(others, results, strict=True))
        for seat, run in zip(seats, runs, strict=True):
            seat.cache.lengths[seat.row] += len(run.tokens)
        return [found[i] for i in range(len(runs))]

    def _single(self, seat: StackSeat, run: Run, ids: bool) -> Array:
        """Compute one sequence by itself.

        Where steps of an even number of tokens agree, a prompt's odd one is made even by computing
        its last token twice: the second time it stands behind the first, where the next step writes
        over it. The head is then given an even number of tokens as well.
        """
        self._apart(seat)
        cache, size, wanted = seat.cache, len(run.tokens), run.wanted
        evenly = run.prefill and self._session.even_steps
        room = min(cache.longest_step(), self.shape.context - cache.length())
        extra = int(evenly and size % 2 == 1 and size + 1 <= room)
        tokens = np.concatenate([run.tokens, run.tokens[-1:]]) if extra else run.tokens
        asked = min(wanted + wanted % 2, len(tokens)) if evenly else wanted
        cache.begin(len(tokens))
        result = self._run(cache, tokens[None], asked, ids, [run.adapted])
        return result[0, max(0, asked - extra - wanted) :][:wanted]

    def _together(
        self, stack: RingCache, members: Sequence[tuple[StackSeat, Run]], ids: bool
    ) -> Iterator[Array]:
        """Compute rows of one cache. Shorter ones repeat their last token,
        which counts for nothing.
        """
        longest = max(len(run.tokens) for _, run in members)
        tokens = np.zeros((stack.rows, longest), dtype=np.int64)
        adapted = list[Adapted | None]([None] * stack.rows)
        for seat, run in members:
            tokens[seat.row] = run.tokens[-1]
            tokens[seat.row, : len(run.tokens)] = run.tokens
            adapted[seat.row] = run.adapted
        stack.begin(longest)
        result = self._run(stack, tokens, longest, ids, adapted)
        return iter([result[seat.row, : len(run.tokens)] for seat, run in members])

    def _run(
        self,
        cache: RingCache,
        tokens: Array,
        wanted: int,
        ids: bool,
        adapted: Sequence[Adapted | None],
    ) -> Array:
        """Compute tokens (rows, step); ``adapted``: with which adapter, by row."""
        if cache not in self._bound:
            self._bound[cache] = _Bound(self._session)
        step = self._running = self._bound[cache].step(cache)
        try:
            feeds = self._session.adapters.feeds([(each, tokens.shape[1]) for each in adapted])
            return step.run(tokens, cache.lengths, wanted, ids=ids, adapters=feeds)
        finally:
            self._running = None

    def cancel(self) -> None:
        """Stop the pass that runs; its caches are bound anew."""
        step = self._running
        if step is not None:
            self._bound.clear()
            step.cancel()

    def rebind(self) -> None:
        """See :class:`~sc2onnx.runtime.engine.seats.Seats`."""
        self._bound.clear()

    def tidy(self) -> None:
        """Give up the shared cache, if nobody is in it any more, and the memory of adapters."""
        if self._session.settle():
            self.rebind()
        self._unstack()

    def _unstack(self) -> None:
        if self._stack is not None and not any(self._living()):
            self._bound.pop(self._stack, None)
            self._stack, self._members = None, []

    def _living(self) -> list[StackSeat | None]:
        """Who is in the rows of the shared cache; None: nobody, or somebody who was forgotten."""
        return [None if member is None else member() for member in self._members]

    def left(self, seat: StackSeat) -> None:
        """A sequence is over."""
        if seat.cache is self._stack:
            self._vacate(seat)
            seat.cache = RingCache(self.shape, rows=0, storage=self._session.storage)
        else:
            self._bound.pop(seat.cache, None)
            seat.cache.clear()
        seat.row = 0

    def _vacate(self, seat: StackSeat) -> None:
        assert self._stack is not None
        self._stack.vacate(seat.row)
        self._members[seat.row] = None
        self._unstack()

    def _apart(self, seat: StackSeat) -> None:
        """Have a sequence in a cache of its own."""
        if seat.cache is not self._stack:
            return
        alone = seat.cache.taken(seat.row)
        self._vacate(seat)
        seat.cache, seat.row = alone, 0

    def _stacked(self, seats: Sequence[StackSeat]) -> RingCache:
        """The cache of which these sequences are rows, and nobody else is."""
        for member in self._living():
            if member is not None and not any(member is seat for seat in seats):
                self._apart(member)
        joining = [seat for seat in seats if seat.cache is not self._stack]
        empty = [row for row, member in enumerate(self._living()) if member is None]
        if (
            self._stack is None
            or len(joining) > len(empty)
            or self._rows(len(seats)) != self._stack.rows
        ):
            self._restack(seats)
        else:
            for seat, row in zip(joining, empty, strict=False):
                self._stack.place(row, seat.cache, seat.row)
                self._moved(seat, self._stack, row)
                self._members[row] = weakref.ref(seat)
        assert self._stack is not None
        return self._stack

    def _restack(self, seats: Sequence[StackSeat]) -> None:
        """All in a new cache, with empty rows for those to come."""
        stack = RingCache.stacked(
            self._rows(len(seats)), [(seat.cache, seat.row) for seat in seats]
        )
        members: list[weakref.ref[StackSeat] | None] = [None] * stack.rows
        for row, seat in enumerate(seats):
            self._moved(seat, stack, row)
            members[row] = weakref.ref(seat)
        self._stack, self._members = stack, members

    def _moved(self, seat: StackSeat, stack: RingCache, row: int) -> None:
        if seat.cache.rows == 1:
            self._bound.pop(seat.cache, None)
            seat.cache.clear()
        seat.cache, seat.row = stack, row


def _even(rows: int) -> int:
    """Rows of a stack for so many sequences: an empty one costs as much as any other on a CPU."""
    return round_up(rows, 2)


def _doubled(rows: int) -> int:
    """Rows of a stack for so many sequences on a GPU, where an empty one costs next to nothing, but
    a new stack is copied over the host: a power of two.
    """
    return 1 << max(1, (rows - 1).bit_length())
