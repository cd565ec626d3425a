"""Generations that are under way: iterated from a thread or from asyncio, closed from anywhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

from sc2onnx.errors import CancelledError, SequenceStateError
from sc2onnx.runtime.decoder import Decoder
from sc2onnx.runtime.forks import not_portable
from sc2onnx.runtime.generate import FinishReason, Piece, Row, Token, columns, tokens
from sc2onnx.runtime.memory import not_enough
from sc2onnx.runtime.text.fitting import Surroundings

T = TypeVar("T")


class Generation(Generic[T]):
    """What a :class:`Stream` and a :class:`TokenStream` are: a generation that is computed while it
    is iterated.

    Iterate it with ``for``, or with ``async for``, where a thread of asyncio's own computes and the
    event loop goes on. One thread or task at a time; :meth:`close` is for any thread, at any time.
    A running step then stops within about one operator, the cache is freed, or kept for later
    requests, and the iteration ends, without an error: :attr:`finish_reason` says ``"cancelled"``.
    A task that is cancelled in ``async for`` closes it as well. It is a context manager, with
    ``with`` and ``async with``; leaving the block closes it.
    """

    def __init__(self, decoder: Decoder, row: Row, parts: Iterator[T]) -> None:
        """``parts`` must not know this object: a cycle would keep the cache of one that was
        forgotten.
        """
        self._decoder, self._row, self._parts = decoder, row, parts
        self._turn = threading.Lock()
        self._reason: FinishReason | None = None
        self._closed = self._failed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        self._decoder.check_process()  # before a lock that another thread may have held at the fork
        if not self._turn.acquire(blocking=False):
            raise SequenceStateError("the stream is in use, by another thread or further up in this one: only close it")
        try:
            return self._next()
        finally:
            self._turn.release()

    def _next(self) -> T:
        if self._decoder.closed:
            raise StopIteration
        try:
            part = next(self._parts)
        except StopIteration:
            raise
        except MemoryError as error:
            self._failed = True
            raise not_enough(error) from error
        except SequenceStateError as error:
            if self._closed or isinstance(error, CancelledError):  # by another thread, just now, or by the end of the program
                self._closed = True
                raise StopIteration from None
            self._failed = True
            raise
        except BaseException:
            self._failed = True
            raise
        self._note(part)
        if self._closed and self._reason is None:
            self._decoder.close()
        return part

    def _note(self, part: T) -> None:
        """Remember what a part says."""
        raise NotImplementedError

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended: ``"stop"``, ``"length"``, or ``"cancelled"`` if it was closed before that.

        None while it runs, and after an error, which was raised.
        """
        if self._reason is not None:
            return self._reason
        return "cancelled" if self._closed and not self._failed else None

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self._row.prompt)

    @property
    def generated_tokens(self) -> int:
        """Tokens generated so far, without a stop token."""
        return self._row.produced

    @property
    def reused_tokens(self) -> int:
        """How many tokens of the prompt an earlier request had left computed; known from the first
        part on, 0 before.
        """
        return self._decoder.reused

    @property
    def drafted_tokens(self) -> int:
        """How many tokens were computed ahead as guesses so far."""
        return self._row.guesses[0]

    @property
    def accepted_tokens(self) -> int:
        """How many of :attr:`drafted_tokens` were right."""
        return self._row.guesses[1]

    def close(self) -> None:
        """Stop it and free the cache, or leave it to later requests. Closing twice, or after the
        end, is fine.

        It returns when the step that runs has stopped.
        """
        self._closed = True
        self._decoder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        import asyncio  # by now the caller has; without it, there is no need for it

        try:
            part = await asyncio.to_thread(next, self, None)
        except asyncio.CancelledError:
            self._cancel()
            raise
        if part is None:
            raise StopAsyncIteration
        return part

    async def aclose(self) -> None:
        """Close it from asyncio: the event loop goes on while the step that runs stops."""
        if self._cancel():  # as between two pieces: no thread is needed, of which none may be free
            return
        import asyncio

        await asyncio.to_thread(self.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    def _cancel(self) -> bool:
        """Close it without waiting for the step that runs: its thread frees the cache on its way
        out. Whether none was running.
        """
        self._closed = True
        return self._decoder.cancel()

    def __reduce__(self) -> str:
        raise not_portable(self)


class Stream(Generation[Piece]):
    """Pieces of text as they are generated, of ``model.stream()`` and ``model.stream_infill()``.

    Iterate it, with ``for`` or ``async for``. Closing it, from any thread, or leaving its ``with``
    or ``async with`` block, or cancelling the task that iterates, stops the work within about one
    operator and ends the iteration without an error: look at :attr:`finish_reason` before you take
    :attr:`text` for whole.
    """

    def __init__(self, decoder: Decoder, row: Row) -> None:
        super().__init__(decoder, row, _pieces(decoder, row))
        self._text = list[str]()

    @property
    def text(self) -> str:
        """All text of the pieces so far: once :attr:`finish_reason` is ``"stop"`` or ``"length"``,
        what ``generate`` gives.
        """
        return "".join(self._text)

    @property
    def used(self) -> Surroundings | None:
        """What of the code around the cursor is in the prompt; None where it is not for infilling."""
        return self._row.used

    def _note(self, part: Piece) -> None:
        self._text.append(part.text)
        self._reason = part.finish_reason


class TokenStream(Generation[Token]):
    """Tokens as they are generated, of ``model.generate_tokens()``.

    Iterate it, with ``for`` or ``async for``. Closing it, from any thread, or leaving its ``with``
    or ``async with`` block, or cancelling the task that iterates, stops the work within about one
    operator and ends the iteration without an error.
    """

    def __init__(self, decoder: Decoder, row: Row) -> None:
        super().__init__(decoder, row, _tokens(decoder, row))

    def _note(self, part: Token) -> None:
        self._reason = self._row.finish_reason

    def _next(self) -> Token:
        try:
            return super()._next()
        except StopIteration:
            self._reason = self._row.finish_reason  # a stop token is not given
            raise


def _tokens(decoder: Decoder, row: Row) -> Iterator[Token]:
    """Tokens of one row; frees the cache when it ends, is closed or is forgotten."""
    try:
        yield from tokens(decoder, row)
    finally:
        decoder.close()


def _pieces(decoder: Decoder, row: Row) -> Iterator[Piece]:
    """Pieces of one row; frees the cache when it ends, is closed or is forgotten."""
    waiting = list[Token]()
    assert row.text is not None
    try:
        for token in tokens(decoder, row):
            waiting.append(token)
            text = "" if row.finish_reason else row.text.pull()
            if text:
                yield Piece(text, *columns(waiting, row), None)
                waiting.clear()
            if decoder.closed:
                return
        text = row.text.pull(last=True)
        yield Piece(text, *columns(waiting, row), "stop" if row.text.stopped else row.finish_reason)
    finally:
        decoder.close()
