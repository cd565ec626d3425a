"""A request and its answer, whatever dialect they are in: the body, the work, and
a client that may be gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from sc2onnx.runtime.engine.handle import Handle
from sc2onnx.runtime.engine.streams import Stream
from sc2onnx.runtime.results import Completion, Piece
from sc2onnx.serve.ask import Ask
from sc2onnx.serve.attributing import Repeats
from sc2onnx.serve.bodies import body_of
from sc2onnx.serve.entry import entry_of
from sc2onnx.serve.metrics import Metrics
from sc2onnx.serve.refusal import RefusedError, refusal_of
from sc2onnx.serve.replies import refused
from sc2onnx.serve.service import Service

LOG: Final = logging.getLogger("sc2onnx.serve")

EVENTS: Final = "text/event-stream"
"""The type of streams, unless a dialect has another."""

_NOTHING: Final = Completion("", (), None, "length", 0)

T = TypeVar("T")
Told = Callable[[RefusedError], bytes]
"""How a dialect tells of an error inside a stream."""


class Exchange:
    """What all dialects share. ``settings``: bounds of a request."""

    def __init__(self, service: Service, metrics: Metrics) -> None:
        self.service, self.metrics, self.settings = service, metrics, service.settings

    async def body(self, request: Request, decoder: msgspec.json.Decoder[T]) -> T:
        """A request's body. Raises :class:`RefusedError`."""
        return decoded(await self.raw(request), decoder)

    async def raw(self, request: Request) -> bytes:
        """A request's body, read as far as it may be. Raises :class:`RefusedError`."""
        return await body_of(request, self.settings)

    async def completions(self, request: Request, ask: Ask) -> list[Completion]:
        """All that was asked for, unless the client goes meanwhile, which ends it."""
        if self.service.left_out(ask):
            return [_NOTHING] * len(ask.prompts) * ask.samples
        tasks = await self.service.tasks(self._owned(request, ask))
        entry_of(request.scope).submits(tasks)
        async with _Watch(self.service, request, tasks):
            done = [await task for task in tasks]
        self.metrics.took([each.usage for each in done])
        return done

    async def streams(self, request: Request, ask: Ask) -> list[Stream]:
        """What was asked for, as it comes; for :meth:`streamed`."""
        streams = await self.service.streams(self._owned(request, ask))
        entry_of(request.scope).submits(streams)
        return streams

    def repeats(self, ask: Ask) -> Repeats:
        """What says which files the answers to a request repeat."""
        return Repeats.to(ask, self.service.model(ask.model)[1], self.settings.attribution)

    def _owned(self, request: Request, ask: Ask) -> Ask:
        """What is asked for, in the namespace of its key: nobody can tell by
        the time what others ask.
        """
        entry = entry_of(request.scope)
        entry.asks(self.service.model(ask.model)[0], ask, prompts=self.settings.log_prompts)
        if entry.key is None:
            return ask
        replaces = None if ask.replaces is None else (entry.key, ask.replaces)
        return replace(ask, options={**ask.options, "namespace": str(entry.key)}, replaces=replaces)

    def streamed(
        self, streams: Sequence[Stream], parts: AsyncIterator[bytes], told: Told, kind: str = EVENTS
    ) -> Response:
        """Parts of an answer as they come, until the client is gone."""

        def over() -> None:
            self.service.over(streams)
            self.metrics.took([stream.usage for stream in streams])

        return _Streamed(_told_of(parts, told), over, kind)


class _Streamed(StreamingResponse):
    """A stream that ends its requests whatever ends it: its last part, or a client that is gone or
    does not read, of which the parts would hear only when they are collected.
    """

    def __init__(self, parts: AsyncIterator[bytes], over: Callable[[], None], kind: str) -> None:
        super().__init__(parts, media_type=kind, headers={"cache-control": "no-cache"})
        self._over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the specification of ASGI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._over()


async def _told_of(parts: AsyncIterator[bytes], told: Told) -> AsyncIterator[bytes]:
    """Parts, and an error as the last of them."""
    try:
        async for part in parts:
            yield part
    except Exception as failed:
        refusal = refusal_of(failed)
        if refusal.status == 500:
            LOG.exception("a stream failed")
        yield told(refusal)


def decoded(raw: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """A body as what it should be. Raises :class:`RefusedError`."""
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as wrong:
        raise RefusedError(400, f"the body is not what this path takes: {wrong}") from None


class _Watch:
    """Ends requests whose client is gone."""

    def __init__(self, service: Service, request: Request, handles: Sequence[Handle[Any]]) -> None:
        self._service, self._request, self._handles = service, request, handles
        self._looking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        entry_of(self._request.scope).gone = True
        self._service.over(self._handles)

    async def __aexit__(self, *ended: object) -> None:
        self._service.over(self._handles)
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking


async def merged(streams: Sequence[Stream]) -> AsyncIterator[tuple[int, Piece]]:
    """Pieces of several streams as they come, with the number of their stream."""
    if len(streams) == 1:
        async for piece in streams[0]:
            yield 0, piece
        return
    coming: asyncio.Queue[tuple[int, Piece | Exception | None]] = asyncio.Queue(2 * len(streams))

    async def read(index: int, stream: Stream) -> None:
        try:
            async for piece in stream:
                await coming.put((index, piece))
            await coming.put((index, None))
        except Exception as failed:
            await coming.put((index, failed))

    readers = [asyncio.create_task(read(index, stream)) for index, stream in enumerate(streams)]
    try:
        left = len(streams)
        while left:
            index, came = await coming.get()
            if isinstance(came, Exception):
                raise came
            if came is None:
                left -= 1
            else:
                yield index, came
    finally:
        for reader in readers:
            reader.cancel()


def guarded(
    answer: Callable[[Request], Awaitable[Response]],
    reply: Callable[[RefusedError], Response] = refused,
) -> Callable[[Request], Awaitable[Response]]:
    """Turn what an answer raises into one, as a dialect tells of it."""

    async def safe(request: Request) -> Response:
        try:
            return await answer(request)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as failed:
            refusal = refusal_of(failed)
            if refusal.status == 500:
                LOG.exception("a request failed")
            return reply(refusal)

    return safe
