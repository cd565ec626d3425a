"""Requests under way, as their readers have them: iterated from a thread or from asyncio, closed
from anywhere.
"""

from __future__ import annotations

import threading
import weakref
from contextlib import suppress
from types import TracebackType
from typing import Generic, Self, TypeVar

from sc2onnx.errors import CancelledError, SequenceStateError
from sc2onnx.runtime.engine.loop import Engine
from sc2onnx.runtime.engine.row import Row
from sc2onnx.runtime.forks import not_portable
from sc2onnx.runtime.results import FinishReason, Measured, Usage

T = TypeVar("T")


class Handle(Measured, Generic[T]):
    """A generation that is under way: its parts, its end, and what it took.

    Iterate it with ``for``, or with ``async for``, where a thread of asyncio's own waits and the
    event loop goes on. One thread or task at a time; :meth:`close` is for any thread, at any time.
    A step that only it is in then stops within about one operator, the cache is freed, or kept for
    later requests, and the iteration ends, without an error: :attr:`finish_reason` says
    ``"cancelled"``. A task that is cancelled in ``async for`` closes it as well. It is a context
    manager, with ``with`` and ``async with``; leaving the block closes it.
    """

    def __init__(self, engine: Engine, row: Row, *, submitted: bool = False) -> None:
        """``submitted``: begin now, not when it is iterated."""
        self._engine, self._row = engine, row
        self._reading = threading.Lock()
        self._submitted = submitted
        self._closed = False
        if submitted:
            engine.submit(row)
        # A row must not know this object: it would keep one alive that was forgotten.
        weakref.finalize(self, _forgotten, engine, row).atexit = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        self._engine.process.check()  # before a lock that another thread may have held at the fork
        if not self._reading.acquire(blocking=False):
            raise SequenceStateError(
                "the stream is in use, by another thread or further up in this one: only close it"
            )
        try:
            return self._next()
        finally:
            self._reading.release()

    def _next(self) -> T:
        row = self._row
        if self._closed:
            raise StopIteration
        self._begin()
        if not row.parts:
            try:
                self._engine.wait(row)
            except SequenceStateError:
                raise
            except BaseException as error:
                self._engine.broken(row, error)
                raise
        if row.parts and not self._closed:
            part: T = row.parts.popleft()
            self._engine.taken()
            return part
        if row.error is not None and not row.told:
            row.told = True
            if isinstance(row.error, CancelledError):  # by the end of the program
                self._closed = True
                raise StopIteration
            raise row.error
        raise StopIteration

    def _begin(self) -> None:
        if not self._submitted:
            self._submitted = True
            self._engine.submit(self._row)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended: ``"stop"``, ``"length"``, ``"timeout"``, or ``"cancelled"`` if it was
        closed or replaced before that.

        None while it runs, or while parts of it wait to be read, and after an error, which was
        raised.
        """
        row = self._row
        if row.error is not None:
            return "cancelled" if isinstance(row.error, CancelledError) else None
        read = row.finish_reason if not row.parts else None
        return read or ("cancelled" if self._closed else None)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return self.usage.prompt

    @property
    def generated_tokens(self) -> int:
        """Tokens generated so far, without a stop token."""
        return self.usage.generated

    @property
    def usage(self) -> Usage:
        """What it took so far."""
        return self._row.usage

    @property
    def waiting(self) -> bool:
        """Whether it waits for its first step."""
        return not (self._row.entered or self._row.ended)

    def close(self) -> None:
        """Stop it and free the cache, or leave it to later requests. Closing twice, or after the
        end, is fine.

        It returns when the step that runs has stopped.
        """
        self._closed = True
        if not self._row.ended:
            self._engine.close(self._row)

    def cancel(self) -> None:
        """Stop it without waiting for the step that runs."""
        self._closed = True
        if not self._row.ended:
            self._engine.cancel(self._row)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        import asyncio  # by now the caller has; without it, there is no need for it

        try:
            if self._engine.threaded and not self._closed:
                self._begin()
                await self._until_ready()
                part = next(self, None)
            else:
                part = await asyncio.to_thread(next, self, None)
        except asyncio.CancelledError:
            self.cancel()
            raise
        if part is None:
            raise StopAsyncIteration
        return part

    async def _until_ready(self) -> None:
        """Wait for a part or the end without a thread, as long as the engine has one of its own."""
        import asyncio

        row, loop = self._row, asyncio.get_running_loop()
        while not row.ready and self._engine.threaded:
            event = asyncio.Event()

            def wake(event: asyncio.Event = event) -> None:
                with suppress(RuntimeError):  # the loop is closed, and nobody waits
                    loop.call_soon_threadsafe(event.set)

            row.wake = wake
            try:
                if not row.ready and self._engine.threaded:
                    await event.wait()
            finally:
                row.wake = None
        if not row.ready:
            await asyncio.to_thread(self._engine.wait, row)

    async def aclose(self) -> None:
        """Close it from asyncio: the event loop goes on while the step that runs stops."""
        self._closed = True
        # no thread is needed, of which none may be free
        if self._row.ended or self._engine.cancel(self._row):
            return
        import asyncio

        await asyncio.to_thread(self.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __reduce__(self) -> str:
        raise not_portable(self)


def _forgotten(engine: Engine, row: Row) -> None:
    """A reader that was dropped: at any time, in any thread."""
    if not row.ended:
        engine.cancel(row)
