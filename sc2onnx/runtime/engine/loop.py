"""Who computes: one thread at a time, for all; a caller that waits for its own request,
or the engine's own thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from sc2onnx.errors import SequenceStateError
from sc2onnx.runtime.engine.costs import StepCosts
from sc2onnx.runtime.engine.lobby import Bounds, Lobby
from sc2onnx.runtime.engine.prefix import PrefixStore
from sc2onnx.runtime.engine.row import Row
from sc2onnx.runtime.engine.seats import Seats
from sc2onnx.runtime.engine.steps import Steps
from sc2onnx.runtime.engine.turn import Gate, Turn
from sc2onnx.runtime.forks import Process

_FURTHER_UP: Final = (
    "the model is in use further up in this thread: do not use it in a signal handler, other "
    "than to close what runs"
)


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
        self.seats, self.bounds, self.store, self.process = seats, bounds, store, process
        self.lobby = Lobby(seats, bounds, store, self._tell)
        self.steps = Steps(self.lobby, costs, self._tell)
        self.turn = Turn()
        self._sleepers: dict[Row, Gate] = {}  # threads that wait for a row
        self._holder: object | None = None
        self._thread: threading.Thread | None = None
        self._work = Gate()

    def submit(self, row: Row) -> None:
        """Take a request; it is computed when somebody waits for any, or by the engine's thread."""
        self.process.check()
        row.moments.mark("submit")
        if row.terms.replaces is not None:
            for other in self.lobby.rows:
                if other.terms.replaces == row.terms.replaces:
                    self.cancel(other)
        self.lobby.fresh.append(row)
        self.steps.give_way(row.terms.priority)
        self._work.open()

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
            self._work.open()

    def cancel(self, row: Row) -> bool:
        """End a row from any thread, without waiting for the step that runs. Whether it is over.

        A pass that only computes rows that are cancelled stops within about one operator.
        """
        row.cancelled = True
        if self.process.forked:  # where nothing can be freed
            row.end("cancelled")
            return True
        self.lobby.over.append(row)
        self.steps.stop_if_cancelled()
        if self._meanwhile(self.lobby.see):
            return True
        self._work.open()
        return False

    def _meanwhile(self, work: Callable[[], object]) -> bool:
        """Do something that takes the turn, if it is free. Whether it was."""
        if not self.turn.try_take():
            return False
        try:
            work()
        finally:
            self.turn.give()
            self._rouse()
        return True

    def begun(self, caller: object | None) -> None:
        """Who has it exclusively now, so that :meth:`stop_of` finds it."""
        self._holder = caller

    def stop_of(self, caller: object) -> None:
        """Stop the pass of the caller that has it exclusively. For any thread."""
        if self._holder is caller:
            self.seats.cancel()

    def close(self, row: Row) -> None:
        """End a row from any thread, and return when it is over; at once in
        the thread that computes.
        """
        if self.cancel(row) or self.turn.mine:
            return
        with self.exclusive(inside=True):
            self.lobby.see()

    @contextmanager
    def exclusive(self, *, inside: bool = False) -> Iterator[None]:
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
        self._meanwhile(self._given_back)

    @property
    def nbytes(self) -> int:
        """Bytes of all caches, those kept for later requests as well."""
        self._meanwhile(self._freed)
        return self.seats.nbytes

    def _given_back(self) -> None:
        self.lobby.see()
        self.seats.tidy()

    def _freed(self) -> None:
        """What was closed meanwhile is freed; memory goes back where nobody
        would have to wait for that.
        """
        self.lobby.see()
        if not self.lobby.active:
            self.seats.tidy()

    @property
    def idle(self) -> bool:
        """Whether it knows of no request."""
        return self.lobby.empty and not self._sleepers

    @property
    def threaded(self) -> bool:
        """Whether a thread of its own computes."""
        return self._thread is not None

    def start(self, *, bulk: bool = False) -> None:
        """Have a thread compute, so that callers only wait. Starting twice is fine.
        ``bulk``: nobody waits for one request, so prompts are computed in whole chunks.
        """
        self.process.check()
        if self._thread is None:
            self.steps.shared = not bulk
            self._thread = threading.Thread(target=self._serve, name="sc2onnx", daemon=True)
            self._thread.start()
            self._work.open()

    def stop(self) -> None:
        """Let the thread end after its step. Requests go on when somebody waits for them."""
        if self.process.forked:  # where neither it is, nor who may hold its locks
            return
        thread, self._thread = self._thread, None
        self.steps.shared = False
        self._work.open()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        for row in self.lobby.rows:
            if row.wake is not None:  # its reader has to find another way to wait
                row.wake()
        self._rouse()

    def _serve(self) -> None:
        while self._thread is threading.current_thread():
            self._work.wait()
            going = True
            while going and self._thread is threading.current_thread():
                self.turn.take()
                try:
                    going = self.steps.step()
                except Exception as error:  # nobody else would hear of it
                    for row in [*self.lobby.waiting, *self.lobby.active]:
                        self.lobby.fail(row, error)
                finally:
                    self.turn.give()

    def _drive(self, row: Row) -> None:
        while not row.ready and not self.turn.wanted and self._thread is None:
            going = self.steps.step()
            assert going or row.ready, "a request that waits for nothing"

    def _sleep(self, row: Row) -> None:
        gate = self._sleepers.setdefault(row, Gate())
        try:
            if not row.ready and not (self._thread is None and self.turn.free):
                gate.wait()
        finally:
            self._sleepers.pop(row, None)

    def _rouse(self) -> None:
        """Wake a thread that waits, to take the turn."""
        if self._thread is None:
            for row, gate in list(self._sleepers.items()):
                if not row.ready:
                    gate.open()
                    return

    def _tell(self, row: Row) -> None:
        """Wake the row's reader, if there is something."""
        if row.ready:
            if (gate := self._sleepers.get(row)) is not None:
                gate.open()
            if row.wake is not None:
                row.wake()
