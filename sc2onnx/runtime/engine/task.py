"""Requests whose readers want all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

from sc2onnx.runtime.engine.handle import Handle
from sc2onnx.runtime.engine.loop import Engine
from sc2onnx.runtime.engine.row import Row
from sc2onnx.runtime.results import Completion, Piece


class Task(Handle[Piece]):
    """A generation whose reader wants all of it: :meth:`result` waits for that."""

    def result(self) -> Completion:
        """All of it, computed by now. Raises what stopped it."""
        self._begin()
        while not self._row.ended:
            self._engine.wait(self._row)
        if self._row.error is not None:
            raise self._row.error
        return self._row.completion()

    @property
    def ended(self) -> bool:
        """Whether :meth:`result` would not wait."""
        return self._row.ended

    def when_ended(self, call: Callable[[], object]) -> None:
        """Have something called when it ends, by the thread that computes: it should take no time.

        It is called here where it has ended, and may be called twice, and before the end where the
        model is stopped: look at :attr:`ended`. Not for a task that is awaited as well.
        """
        self._begin()
        self._row.wake = call
        if self._row.ended:
            call()

    def __await__(self) -> Generator[Any, None, Completion]:
        return self._result().__await__()

    async def _result(self) -> Completion:
        self._begin()
        await self._until_ready()
        return self.result()


def completed(engine: Engine, rows: Sequence[Row]) -> list[Completion]:
    """All of several requests, computed together. The first error stops the others."""
    tasks = [Task(engine, row, submitted=True) for row in rows]
    try:
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
