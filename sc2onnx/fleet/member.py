"""A server behind the front: where it is, what it has to do, and whether it is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

import httpcore

from sc2onnx.errors import RequestError

Headers = list[tuple[bytes, bytes]]
Trace = Callable[[str, object], Awaitable[None]]

CONNECT: Final = 1.0
"""Seconds in which a member takes a connection."""

PROBE: Final = 5.0
"""Seconds in which a member says how it is."""

_CONNECTIONS: Final = 1024


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it goes to a member: ``target`` is its path and query, ``keys`` are its file's
    (:mod:`sc2onnx.fleet.affinity`).
    """

    method: bytes
    target: bytes
    headers: Headers
    body: bytes
    keys: Sequence[int] = ()

    def also(self, headers: Mapping[str, str]) -> Call:
        """The same with these headers, in the place of its own of these names."""
        if not headers:
            return self
        new = [(name.encode(), value.encode()) for name, value in headers.items()]
        names = {name for name, _ in new}
        kept = [each for each in self.headers if each[0].lower() not in names]
        return replace(self, headers=[*kept, *new])


@dataclass(frozen=True, slots=True)
class Reply:
    """A member's answer: its body comes in ``parts``."""

    status: int
    headers: Headers
    parts: AsyncIterator[bytes]


class LostError(Exception):
    """A member is gone, or does not answer as a server does."""


class Member:
    """A server that HTTP reaches.

    ``name``: what rankings know it by, which must stay the same when it comes back. ``address``:
    ``http://HOST:PORT``, or with ``socket`` any, and the path of a Unix socket. ``going``:
    requests that it computes of this front's. ``ready``: whether it is asked. ``here``: whether it
    is a process of this fleet, with the same log.

    Raises :class:`~sc2onnx.errors.RequestError` for an address that is none.
    """

    def __init__(self, name: str, address: str, socket: str | None = None) -> None:
        found = urlsplit(address)
        if found.scheme != "http" or not found.hostname or found.path not in ("", "/"):
            raise RequestError(f"a member is {address[:100]!r}, expected http://HOST:PORT")
        self.name, self.going, self.ready, self.here = name, 0, False, socket is not None
        self._host, self._port = found.hostname.encode(), found.port or 80
        self._pool = httpcore.AsyncConnectionPool(
            uds=socket,
            max_connections=_CONNECTIONS,
            max_keepalive_connections=64,
            keepalive_expiry=20.0,  # less than the members keep theirs: none closes as it is used
        )
        self._asked = set[asyncio.Timeout]()

    @asynccontextmanager
    async def ask(self, call: Call) -> AsyncIterator[Reply]:
        """The member's answer. Leaving ends what it computes of it.

        Raises :class:`LostError`, also while parts are read.
        """
        self.going += 1
        limit = asyncio.timeout(None)
        self._asked.add(limit)
        try:
            async with _as_lost(), limit, AsyncExitStack() as stack:
                reply = await self._answer(call, stack)
                yield Reply(reply.status, reply.headers, reply.aiter_stream())
        finally:
            self._asked.discard(limit)
            self.going -= 1

    async def _answer(self, call: Call, stack: AsyncExitStack) -> httpcore.Response:
        """Its answer as it begins. Where a connection that was open already does not give one, it
        may have been closed at the other end meanwhile: the next one is new.
        """
        made = False

        async def trace(event: str, _: object) -> None:
            nonlocal made
            made = made or event.startswith("connection.connect")

        while True:
            try:
                return await stack.enter_async_context(self._stream(call, None, trace))
            except (httpcore.NetworkError, httpcore.ProtocolError):
                if made:
                    raise

    def abandon(self) -> None:
        """Wait for none of its answers any more: it does not say how it is."""
        self.ready = False
        for limit in self._asked:
            if not limit.expired():
                limit.reschedule(0)

    async def probe(self) -> str:
        """Its state: ``ready``, ``loading``, ``draining`` or ``lost``."""
        call = Call(b"GET", b"/health", [(b"host", b"localhost")], b"")
        try:
            async with _as_lost(), self._stream(call, PROBE) as reply:
                body = await reply.aread()
        except LostError:
            return "lost"
        if reply.status == 200:
            return "ready"
        return "loading" if b"Loading" in body else "draining"

    def _stream(
        self, call: Call, seconds: float | None, trace: Trace | None = None
    ) -> AbstractAsyncContextManager[httpcore.Response]:
        timeout = {"connect": CONNECT, "read": seconds, "write": seconds, "pool": CONNECT}
        return self._pool.stream(
            call.method,
            httpcore.URL(scheme=b"http", host=self._host, port=self._port, target=call.target),
            headers=call.headers,
            content=call.body,
            extensions={"timeout": timeout, **({"trace": trace} if trace else {})},
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._pool.aclose()


@asynccontextmanager
async def _as_lost() -> AsyncIterator[None]:
    try:
        yield
    except (
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.TimeoutException,
        OSError,
    ) as error:
        raise LostError(str(error) or type(error).__name__) from error
