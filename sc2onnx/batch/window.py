"""The rows that are under way: enough of them to keep the engine full,
and their answers in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final

from sc2onnx.batch.records import Record
from sc2onnx.batch.tasks import Pending, Task
from sc2onnx.errors import NotFiniteError, RequestError
from sc2onnx.runtime.model import Model

ROW_FAULTS: Final = (RequestError, NotFiniteError)
"""What is wrong with a row, and not with the machine."""

_AHEAD: Final = 4
"""Rows that wait for the engine, for each that it computes."""

_HELD: Final = 64
"""Rows that may have ended before an earlier one, for each that the engine computes."""


@dataclass(slots=True, eq=False)
class Answer:
    """A row, and what the output says of it besides where it stands."""

    record: Record
    row: dict[str, Any] | None = None
    error: Exception | None = None
    pending: Pending | None = None

    @property
    def over(self) -> bool:
        """Whether it is there."""
        return self.pending is None


class Window:
    """Records in, answers out in the same order. For one thread; the model computes in its own.

    A row that takes long does not keep the engine from later ones: 64 times as many rows as it
    computes at a time may be done and wait for an earlier one.
    """

    def __init__(self, model: Model, task: Task, records: Iterator[Record]) -> None:
        self._model, self._task, self._records = model, task, records
        rows = model.engine.bounds.rows
        self._most_running, self._most = (1 + _AHEAD) * rows, (1 + _AHEAD + _HELD) * rows
        self._line: deque[Answer] = deque()
        self._running = 0
        self._ended: SimpleQueue[Answer] = SimpleQueue()
        self._open = True

    @property
    def over(self) -> bool:
        """Whether there is no row left."""
        return not self._line and not self._open

    def shut(self) -> None:
        """Take no further record."""
        self._open = False

    def next(self, seconds: float) -> list[Answer]:
        """The answers that are next in order: waits for one, but at most so many seconds.

        Raises what ended a row that is not its own fault.
        """
        self._fill()
        if self._line and not self._line[0].over:
            self._collect(seconds)
            self._fill()
        found = list[Answer]()
        while self._line and self._line[0].over:
            found.append(self._line.popleft())
        return found

    def _fill(self) -> None:
        """Begin with as many rows as keep the engine full."""
        while self._open and self._running < self._most_running and len(self._line) < self._most:
            record = next(self._records, None)
            if record is None:
                self._open = False
                return
            self._line.append(self._begun(record))

    def _begun(self, record: Record) -> Answer:
        if record.error is not None:
            return Answer(record, error=RequestError(record.error))
        try:
            pending = self._task.begin(self._model, record)
        except ROW_FAULTS as error:
            return Answer(record, error=error)
        answer = Answer(record, pending=pending)
        self._running += 1
        pending.when_ended(lambda: self._ended.put(answer))
        return answer

    def _collect(self, seconds: float) -> None:
        """Take what has ended; wait for something, but at most so many seconds."""
        try:
            self._take(self._ended.get(timeout=seconds))
            while True:
                self._take(self._ended.get_nowait())
        except Empty:
            return

    def _take(self, answer: Answer) -> None:
        pending = answer.pending
        if pending is None or not pending.ended:  # it was told of twice, or too early
            return
        self._running -= 1
        answer.pending = None
        try:
            answer.row = pending.result()
        except ROW_FAULTS as error:
            answer.error = error.with_traceback(None)

    def close(self) -> None:
        """End what is under way."""
        self.shut()
        for answer in self._line:
            if answer.pending is not None:
                answer.pending.cancel()
        self._line.clear()
        self._task.close()
