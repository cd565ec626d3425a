"""The loop: requests wait, enter, are computed together step by step, and leave.

One thread at a time computes, for all: a caller that waits for its own request, or the engine's own
thread. A step that fails leaves every sequence as it was, so the rows of it are tried one by one,
and only those that fail by themselves are told.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sc2onnx.errors import CancelledError, Sc2onnxError, SequenceStateError
from sc2onnx.runtime.engine.prefix import Kept, PrefixStore
from sc2onnx.runtime.engine.row import Row, Scores
from sc2onnx.runtime.engine.scheduler import (
    Limits,
    Standing,
    Wish,
    admitted,
    drafting,
    planned,
)
from sc2onnx.runtime.engine.seats import Run, Seat, Seats
from sc2onnx.runtime.engine.speculate import StepCosts
from sc2onnx.runtime.engine.turn import Turn
from sc2onnx.runtime.forks import Process
from sc2onnx.runtime.memory import not_enough

_MEASURED: Final = 64
"""Steps of at most so many tokens tell what steps cost: longer ones are prompts."""


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


_FURTHER_UP: Final = "the model is in use further up in this thread: do not use it in a signal handler, other than to close what runs"


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


class Engine:
    """Everything that a model computes. For any number of threads."""

    def __init__(
        self,
        seats: Seats,
        bounds: Bounds,
        store: PrefixStore,
        costs: StepCosts,
        process: Process,
    ) -> None:
        self.seats, self.bounds, self.store, self.costs = seats, bounds, store, costs
        self.process = process
        self.turn = Turn()
        self._waiting: list[Row] = []
        self._active: list[Row] = []
        self._fresh: deque[Row] = deque()  # submitted, not yet seen by the loop
        self._over: deque[Row] = deque()  # cancelled or forgotten, not yet seen by the loop
        self._arrivals = 0
        self._numbers: dict[Row, tuple[int, float]] = {}  # arrival, and when
        self._sleepers: dict[Row, threading.Event] = {}  # threads that wait for a row
        self._passing: Sequence[Row] = ()  # of the pass that runs
        self._alone: object | None = None
        self._thread: threading.Thread | None = None
        self._work = threading.Event()

    # What requests are: submitted, waited for, cancelled.

    def submit(self, row: Row) -> None:
        """Take a request; it is computed when somebody waits for any, or by the engine's thread."""
        self.process.check()
        row.mark("submit")
        self._fresh.append(row)
        self._work.set()

    def wait(self, row: Row) -> None:
        """Return when there is something for the row's reader, computing for all meanwhile."""
        self.process.check()
        if self.turn.mine and not row.ready:
            raise SequenceStateError(_FURTHER_UP)
        try:
            while not row.ready:
                if self._thread is None and self.turn.try_take():
                    try:
                        self._drive(row)
                    finally:
                        self.turn.give()
                        self._rouse()
                else:
                    self._sleep(row)
        finally:
            if self.turn.free:
                self._rouse()

    def broken(self, row: Row, error: BaseException) -> None:
        """End a row whose reader was interrupted, by what a signal handler raised."""
        row.fail(error)
        row.told = True
        self.cancel(row)

    def taken(self) -> None:
        """A reader has taken a part: its row may go on."""
        if self._thread is not None:
            self._work.set()

    def cancel(self, row: Row) -> bool:
        """End a row from any thread, without waiting for the step that runs. Whether it is over.

        A pass that only computes rows that are cancelled stops within about one operator.
        """
        row.cancelled = True
        if self.process.forked:  # where nothing can be freed
            row.end("cancelled")
            return True
        self._over.append(row)
        passing = self._passing
        if passing and all(each.cancelled for each in passing):
            self.seats.cancel()
        if not self.turn.try_take():
            self._work.set()
            return False
        try:
            self._sweep()
        finally:
            self.turn.give()
            self._rouse()
        return True

    def begun(self, caller: object | None) -> None:
        """Who computes alone now, so that :meth:`stop_of` finds it."""
        self._alone = caller

    def stop_of(self, caller: object) -> None:
        """Stop the pass that a caller computes alone. For any thread."""
        if self._alone is caller:
            self.seats.cancel()

    def close(self, row: Row) -> None:
        """End a row from any thread, and return when it is over; at once in the thread that computes."""
        if self.cancel(row) or self.turn.mine:
            return
        with self.alone(inside=True):
            self._sweep()

    @contextmanager
    def alone(self, *, inside: bool = False) -> Iterator[None]:
        """Have nobody else compute while the block runs.

        Raises :class:`SequenceStateError` in the middle of this thread's own step, but for callers
        that know to be ``inside``.
        """
        self.process.check()
        if self.turn.mine and not inside:
            raise SequenceStateError(_FURTHER_UP)
        self.turn.take()
        try:
            yield
        finally:
            self.turn.give()
            self._rouse()

    def forget(self) -> None:
        """Free what finished requests left for later ones."""
        self.store.forget()
        if self.turn.try_take():
            try:
                self._sweep()
                self.seats.tidy()
            finally:
                self.turn.give()
                self._rouse()

    @property
    def nbytes(self) -> int:
        """Bytes of all caches, those kept for later requests as well."""
        if self.turn.try_take():  # what was closed meanwhile is freed first
            try:
                self._sweep()
                if not self._active:
                    self.seats.tidy()
            finally:
                self.turn.give()
                self._rouse()
        return self.seats.nbytes

    @property
    def idle(self) -> bool:
        """Whether it knows of no request."""
        return not (self._active or self._waiting or self._fresh or self._numbers or self._sleepers)

    # A thread of its own.

    @property
    def threaded(self) -> bool:
        """Whether a thread of its own computes."""
        return self._thread is not None

    def start(self) -> None:
        """Have a thread compute, so that callers only wait. Starting twice is fine."""
        self.process.check()
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="sc2onnx", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Let the thread end after its step. Requests go on when somebody waits for them."""
        if self.process.forked:  # where neither it is, nor who may hold its locks
            return
        thread, self._thread = self._thread, None
        self._work.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        for row in [*self._active, *self._waiting, *self._fresh]:
            if row.wake is not None:  # its reader has to find another way to wait
                row.wake()
        self._rouse()

    def _serve(self) -> None:
        while self._thread is threading.current_thread():
            self._work.wait()
            self._work.clear()
            going = True
            while going and self._thread is threading.current_thread():
                self.turn.take()
                try:
                    going = self.step()
                except Exception as error:  # nobody else would hear of it
                    for row in [*self._waiting, *self._active]:
                        self._failed(row, error)
                finally:
                    self.turn.give()

    # Whose turn it is.

    def _drive(self, row: Row) -> None:
        while not row.ready and not self.turn.wanted and self._thread is None:
            going = self.step()
            assert going or row.ready, "a request that waits for nothing"

    def _sleep(self, row: Row) -> None:
        event = self._sleepers.setdefault(row, threading.Event())
        try:
            if not row.ready and not (self._thread is None and self.turn.free):
                event.wait()
        finally:
            self._sleepers.pop(row, None)

    def _rouse(self) -> None:
        """Wake a thread that waits, to take the turn."""
        if self._thread is None:
            for row, event in list(self._sleepers.items()):
                if not row.ready:
                    event.set()
                    return

    # A step.

    def step(self) -> bool:
        """Compute one step for all rows. Whether there was anything to do."""
        self._sweep()
        self._mend()
        self._admit()
        going = [row for row in self._active if not row.paused and not self._follows(row)]
        if not going:
            if not self._active:
                self.seats.tidy()
            return bool(self._waiting)
        wishes = [self._wish(row) for row in going]
        together = self.seats.together
        limits = Limits(self.bounds.rows, self.bounds.chunk, together, self.bounds.even)
        plan = planned(wishes, limits, self.costs)
        rows = [going[place] for place in plan]
        for row in rows:
            row.guesses = []
        self._draft([going[place] for place in drafting(plan, wishes, self.seats.drafts_together)])
        ids = self.seats.chooses and all(row.greedy for row in rows)
        runs = [self._run(row, count) for row, count in zip(rows, plan.values(), strict=True)]
        self._compute(rows, runs, ids)
        return True

    def _mend(self) -> None:
        """Have rows as they were before a step that a signal handler broke off."""
        for row in list(self._active):
            if row.drawing:
                self._failed(row, CancelledError("a signal handler interrupted the drawing of a token"))
            elif row.seat is not None and not self._follows(row):
                row.settle()

    def _draft(self, rows: Sequence[Row]) -> None:
        """Guesses for rows that may have some; each knows how many tokens the others have."""
        tokens = len(rows)
        for row in rows:
            assert row.seat is not None
            room = self.bounds.context - row.seat.length
            row.guesses = row.draft(min(self.bounds.chunk, row.seat.room, room), tokens - 1)
            tokens += len(row.guesses)

    def _run(self, row: Row, count: int) -> Run:
        assert row.seat is not None
        tokens = row.step_tokens(count)
        if not row.prefilling:
            return Run(row.seat, tokens, len(tokens))
        return Run(row.seat, tokens, int(count == row.prompt_left), prefill=True)

    def _compute(self, rows: Sequence[Row], runs: Sequence[Run], ids: bool) -> None:
        began = time.perf_counter()
        try:
            found = self._passed(rows, runs, ids)
        except CancelledError as error:
            self._cancelled(rows, error)
            return
        except Exception as error:
            for row in rows:
                row.guesses = []
            self._one_by_one(rows, runs, error)
            return
        seconds = self._measured(rows, runs, time.perf_counter() - began)
        total = sum(len(run.tokens) for run in runs)
        for row, run, logits in zip(rows, runs, found, strict=True):
            self._advance(row, run, logits, seconds, total - len(run.tokens))

    def _passed(self, rows: Sequence[Row], runs: Sequence[Run], ids: bool) -> list[npt.NDArray[Any]]:
        self._passing = rows
        try:
            if all(row.cancelled for row in rows):  # cancel() saw no pass yet, or sees this one
                raise CancelledError("the sequence was closed")
            return self.seats.forward(runs, ids=ids)
        finally:
            self._passing = ()

    def _measured(self, rows: Sequence[Row], runs: Sequence[Run], seconds: float) -> float | None:
        """The seconds of a step, if they say what later ones take; they are noted."""
        total = sum(len(run.tokens) for run in runs)
        decodes = not any(row.prefilling for row in rows)
        if not decodes and (total > _MEASURED or not self.seats.together):
            return None
        if not self.seats.together:  # all are as long as the longest
            total = len(runs) * max(len(run.tokens) for run in runs)
        self.costs.add(total, seconds)
        return seconds if decodes else None

    def _one_by_one(self, rows: Sequence[Row], runs: Sequence[Run], error: Exception) -> None:
        """Compute the rows of a step that failed; who fails alone is told why."""
        if len(rows) == 1:
            self._failed(rows[0], error)
            return
        for row, run in zip(rows, runs, strict=True):
            single = run if row.prefilling else Run(run.seat, run.tokens[:1], 1)
            self._compute([row], [single], self.seats.chooses and row.greedy)

    def _cancelled(self, rows: Sequence[Row], error: CancelledError) -> None:
        """The pass was stopped: for rows that are closed, or because the program ends."""
        for row in rows:
            row.guesses = []
        if not any(row.cancelled for row in rows):
            for row in rows:
                self._failed(row, error)

    def _failed(self, row: Row, error: BaseException) -> None:
        row.fail(_told(error))
        self._leave(row)

    def _advance(self, row: Row, run: Run, logits: npt.NDArray[Any], seconds: float | None, beside: int) -> None:
        """Draw from what a step gave, and tell the reader."""
        if row.cancelled or not run.wanted:
            return
        if logits.dtype.kind == "f" and not np.isfinite(logits).all():
            row.keeps = False  # it would spoil whatever is computed after it
        row.drawing = True
        try:
            if row.prefilling:
                row.mark("prompt")
                self._share(row, logits[0])
            count = len(row.guesses)
            right = row.advance(list(logits), seconds, beside)
            if count > right:
                run.seat.rewind(count - right)
        except Exception as error:
            row.drawing = False
            self._failed(row, error)
            return
        row.drawing = False
        self._leave(row) if row.ended else self._tell(row)

    def _tell(self, row: Row) -> None:
        """Wake the row's reader, if there is something."""
        if row.ready:
            if (event := self._sleepers.get(row)) is not None:
                event.set()
            if row.wake is not None:
                row.wake()

    # Coming and going.

    def _sweep(self) -> None:
        """See what was submitted, cancelled, replaced or is late."""
        while self._fresh:
            self._arrive(self._fresh.popleft())
        while self._over:
            row = self._over.popleft()
            row.end("cancelled")
            self._leave(row)
        now = time.monotonic()
        for row in [*self._waiting, *self._active]:
            if row.terms.deadline is not None and row.terms.deadline <= now:
                row.end("timeout")
                self._leave(row)

    def _arrive(self, row: Row) -> None:
        key = row.terms.replaces
        for other in [*self._waiting, *self._active] if key is not None else []:
            if other.terms.replaces == key:
                other.end("cancelled")
                self._leave(other)
        self._arrivals += 1
        self._numbers[row] = self._arrivals, time.monotonic()
        self._waiting.append(row)

    def _standing(self, row: Row) -> Standing:
        arrival, since = self._numbers[row]
        return Standing(row.terms.priority, arrival, time.monotonic() - since)

    def _wish(self, row: Row) -> Wish:
        assert row.seat is not None
        most = min(self.bounds.chunk, row.seat.room, self.bounds.context - row.seat.length)
        return Wish(self._standing(row), row.prompt_left if row.prefilling else 0, most)

    def _admit(self) -> None:
        """Let rows enter that wait, as far as there is room."""
        busy = sum(not row.paused for row in self._active)
        standings = [self._standing(row) for row in self._waiting]
        entering = [self._waiting[place] for place in admitted(standings, self.bounds.rows - busy)]
        for row in entering:
            try:
                row.seat = self._seat(row)
            except Exception as error:
                self._failed(row, error)
                continue
            row.reused = row.seat.length
            row.mark("enter")
            self._waiting.remove(row)
            self._active.append(row)
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
        found = self.store.take(row.prompt) if self.store.limit else None
        return self.seats.new() if found is None else found

    def _follows(self, row: Row) -> bool:
        """Whether another row computes this one's prompt."""
        shared = row.shared
        if shared is None or not row.prefilling or shared.leader is row:
            return False
        if shared.leader is None or shared.leader.ended:  # it did not get there
            shared.leader = row
            return False
        return shared.seat is None

    def _share(self, row: Row, scores: Scores) -> None:
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
        shared.scores = scores.copy() if isinstance(scores, np.ndarray) else scores
        for other in list(self._active):
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
        row.reused = shared.reused
        row.mark("prompt")
        shared.coming -= 1
        scores, seat = shared.scores, shared.seat
        if not shared.coming:
            self._keep(row, seat, len(row.prompt))
            shared.seat = shared.scores = None
        try:
            row.advance([scores], None)  # type: ignore[list-item]
        except Exception as error:
            self._failed(row, error)
            return
        self._leave(row) if row.ended else self._tell(row)

    def _leave(self, row: Row) -> None:
        """A row is over: its seat goes to later requests, or is freed."""
        for rows in (self._active, self._waiting):
            if row in rows:
                rows.remove(row)
        self._numbers.pop(row, None)
        if (seat := row.seat) is not None:
            if row.keeps:
                row.settle()
            row.seat = None
            self._keep(row, seat, seat.length) if row.keeps else seat.clear()
        if not self._active and not self._waiting:
            self.seats.tidy()
        self._tell(row)

    def _keep(self, row: Row, seat: Seat, length: int) -> None:
        """Leave a sequence to later requests, as far as their steps agree with those that made it."""
        asked = len(row.prompt)
        generated = np.array([token.id for token in row.tokens], dtype=np.int64)
        held = np.concatenate([row.prompt, generated])[:length]
        kept = min(asked, length) if self.bounds.even else length
        if not self.store.limit or not kept or length - kept > seat.rewindable:
            seat.clear()
            return
        if length > kept:
            seat.rewind(length - kept)
        self.store.put(Kept(held[:kept].copy(), min(asked, kept), seat))
