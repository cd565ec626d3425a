"""Coming and going: rows wait, enter with a seat, share prompts, and leave
their seat to later ones.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from sc2onnx.errors import BusyError, Sc2onnxError
from sc2onnx.runtime.engine.prefix import Kept, PrefixStore
from sc2onnx.runtime.engine.row import Row
from sc2onnx.runtime.engine.scheduler import Standing, Wish, admitted
from sc2onnx.runtime.engine.seats import Seat, Seats
from sc2onnx.runtime.engine.shared_prompt import Scores
from sc2onnx.runtime.memory import not_enough

_BUSY: Final = (
    "the request waited for as long as it may for others to end: ask again, or for less at a time"
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """``rows``: that are computed together at most; ``chunk``: tokens of a prompt in one step;
    ``context``: tokens that the model takes; ``even``: see
    :attr:`sc2onnx.runtime.ort.session.Session.even_steps`.
    """

    rows: int
    chunk: int
    context: int
    even: bool = False


class Lobby:
    """The rows of a model. For whoever has the turn; ``fresh`` and ``over`` are for any thread."""

    def __init__(
        self, seats: Seats, bounds: Bounds, store: PrefixStore, tell: Callable[[Row], None]
    ) -> None:
        """``tell``: wakes a row's reader, if there is something for it."""
        self.seats, self.bounds, self.store, self._tell = seats, bounds, store, tell
        self.waiting: list[Row] = []
        self.active: list[Row] = []
        self.fresh: deque[Row] = deque()  # submitted, not seen yet
        self.over: deque[Row] = deque()  # cancelled or forgotten, not seen yet
        self._arrivals = 0
        self._arrived: dict[Row, tuple[int, float]] = {}  # the how manieth, and when

    @property
    def rows(self) -> list[Row]:
        """All that it knows of."""
        return [*self.active, *self.waiting, *self.fresh]

    @property
    def empty(self) -> bool:
        """Whether it knows of none."""
        return not (self.rows or self._arrived)

    def see(self) -> None:
        """See what was submitted, cancelled, replaced or is late."""
        while self.fresh:
            self._arrive(self.fresh[0])
            self.fresh.popleft()  # last, so that no other thread finds it empty meanwhile
        while self.over:
            row = self.over.popleft()
            row.end("cancelled")
            self.leave(row)
        now = time.monotonic()
        for row in [*self.waiting, *self.active]:
            if row.terms.deadline is not None and row.terms.deadline <= now:
                row.end("timeout")
                self.leave(row)
            elif row.seat is None and row.terms.enters is not None and row.terms.enters <= now:
                self.fail(row, BusyError(_BUSY))

    def _arrive(self, row: Row) -> None:
        if row.ended:  # it was cancelled, and that was seen before its coming
            return
        key = row.terms.replaces
        for other in [*self.waiting, *self.active] if key is not None else []:
            if other.terms.replaces == key:
                other.end("cancelled")
                self.leave(other)
        self._arrivals += 1
        self._arrived[row] = self._arrivals, time.monotonic()
        self.waiting.append(row)

    def _standing(self, row: Row) -> Standing:
        arrival, since = self._arrived[row]
        return Standing(row.terms.priority, arrival, time.monotonic() - since)

    def wish(self, row: Row) -> Wish:
        """What an active row can compute next."""
        assert row.seat is not None
        most = min(self.bounds.chunk, row.seat.room, self.bounds.context - row.seat.length)
        return Wish(self._standing(row), row.prompt_left if row.prefilling else 0, most)

    def admit(self) -> None:
        """Let rows enter that wait, as far as there is room."""
        busy = sum(not row.paused for row in self.active)
        standings = [self._standing(row) for row in self.waiting]
        entering = [self.waiting[place] for place in admitted(standings, self.bounds.rows - busy)]
        for row in entering:
            try:
                row.seat = self._seat(row)
            except Exception as error:
                self.fail(row, error)
                continue
            row.reused = row.seat.length
            row.moments.mark("enter")
            self.waiting.remove(row)
            self.active.append(row)
            if row.shared is not None and row.shared.seat is not None:
                self._join(row)

    def _seat(self, row: Row) -> Seat:
        """A seat with as much of the prompt as somebody has computed."""
        if row.seat is not None:  # a benchmark has placed it
            return row.seat
        shared = row.shared
        if shared is not None:
            if shared.seat is not None:
                return shared.seat.copy(len(row.prompt), len(row.prompt) + 1)
            if shared.leader is not None:
                return self.seats.new()
            shared.leader = row
        reuses = self.store.limit and not row.rules.prompt_logprobs
        found = self.store.take(row.prompt, row.rules.owner) if reuses else None
        return self.seats.new() if found is None else found

    def follows(self, row: Row) -> bool:
        """Whether another row computes this one's prompt."""
        shared = row.shared
        if shared is None or not row.prefilling or shared.leader is row:
            return False
        if shared.leader is None or shared.leader.ended:  # it did not get there
            shared.leader = row
            return False
        return shared.seat is None

    def share(self, row: Row, scores: Scores) -> None:
        """Leave a prompt to the rows that share it."""
        shared = row.shared
        if shared is None or shared.leader is not row or shared.seat is not None:
            return
        shared.coming -= 1
        if not shared.coming:
            return
        assert row.seat is not None
        size = len(row.prompt)
        shared.seat, shared.reused = row.seat.copy(size, size + 1), row.reused
        shared.scored = row.scored
        shared.scores = scores.copy() if isinstance(scores, np.ndarray) else scores
        for other in list(self.active):
            if other.shared is shared and other is not row and other.prefilling:
                assert other.seat is not None
                other.seat.clear()
                other.seat = shared.seat.copy(size, size + 1)
                self._join(other)

    def _join(self, row: Row) -> None:
        """Have a row begin with a prompt that another has computed."""
        shared = row.shared
        assert shared is not None
        assert shared.seat is not None
        row.reused, row.scored = shared.reused, shared.scored
        row.moments.mark("prompt")
        shared.coming -= 1
        scores, seat = shared.scores, shared.seat
        if not shared.coming:
            self._keep(row, seat, len(row.prompt))
            shared.seat = shared.scores = None
        try:
            row.advance([scores], None)  # type: ignore[list-item]
        except Exception as error:
            self.fail(row, error)
            return
        self.leave(row) if row.ended else self._tell(row)

    def leave(self, row: Row) -> None:
        """A row is over: its seat goes to later requests, or is freed."""
        for rows in (self.active, self.waiting):
            if row in rows:
                rows.remove(row)
        try:
            if (seat := row.seat) is not None:
                if row.keeps:
                    row.settle()
                row.seat = None
                self._keep(row, seat, seat.length) if row.keeps else seat.clear()
        finally:  # `empty` says that nothing is left behind any more
            self._arrived.pop(row, None)
        if not self.active and not self.waiting:
            self.seats.tidy()
        self._tell(row)

    def _keep(self, row: Row, seat: Seat, length: int) -> None:
        """Leave a sequence to later requests, as far as their steps
        agree with those that made it.
        """
        asked = len(row.prompt)
        generated = np.array([token.id for token in row.tokens], dtype=np.int64)
        held = np.concatenate([row.prompt, generated])[:length]
        kept = min(asked, length) if self.bounds.even else length
        if not self.store.limit or not kept or length - kept > seat.rewindable:
            seat.clear()
            return
        if length > kept:
            seat.rewind(length - kept)
        self.store.put(Kept(held[:kept].copy(), min(asked, kept), seat, row.rules.owner))

    def fail(self, row: Row, error: BaseException) -> None:
        """End a row with an error, which its reader is told."""
        row.fail(_told(error))
        self.leave(row)


def _told(error: BaseException) -> BaseException:
    """An error as a row's reader is told of it.

    Ours say what is the matter; their tracebacks would keep alive what other threads were doing.
    """
    told = not_enough(error) if isinstance(error, MemoryError) else error
    part: BaseException | None = told
    while isinstance(told, Sc2onnxError) and part is not None:
        part.__traceback__ = None
        part = part.__cause__ or part.__context__
    return told
