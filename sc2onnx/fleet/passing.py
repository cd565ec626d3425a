"""A front as an ASGI application: reads a request, and passes on what a member answers.

A request is asked of the next member where one is gone, is too busy or says that it is not ready:
nothing of its answer has been passed on by then. Answers that do not stream are read whole before
they are passed on, so that they can be asked for again. A stream that has begun cannot: it ends
with an error that its client understands.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final, Literal

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sc2onnx.fleet.affinity import client_of, keys
from sc2onnx.fleet.asked import Asked, Fleet
from sc2onnx.fleet.counts import Counts
from sc2onnx.fleet.member import Call, Headers, LostError, Reply
from sc2onnx.serve.bodies import body_of
from sc2onnx.serve.entry import entry_of
from sc2onnx.serve.guard import refusing, told_of
from sc2onnx.serve.refusal import RefusedError
from sc2onnx.serve.replies import as_json, event, replied
from sc2onnx.serve.settings import Settings
from sc2onnx.serve.tracing import calling

LOG: Final = logging.getLogger("sc2onnx.fleet")

State = Literal["loading", "ready", "draining"]

TRIES: Final = 3
"""Members that a request is asked of. One that ends whoever computes it ends no more of them."""

WAITS: Final = 2.0
"""Seconds in which a request waits for a member, where none is ready."""

_LIVE: Final = ("/livez", "/v2/health/live")
_HEALTH: Final = ("/health", "/v2/health/ready")

_LINES: Final = b"application/x-ndjson"
_STREAMS: Final = (b"text/event-stream", _LINES)
_ELSEWHERE: Final = (429, 503)
"""Statuses of a member that takes no more: another may."""

_OWN: Final = {
    b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"te", b"trailer",
    b"upgrade", b"expect", b"content-length", b"date", b"x-request-id",
}  # fmt: skip
"""Headers of one connection, and those that the front gives itself: they are not passed on."""

_CUT: Final = RefusedError(
    502, "what computed this ended before its time: ask again", "server_error"
)


class Passing(ABC):
    """Has a fleet answer what clients ask.
    Who of it is asked, and in which order, is for subclasses.

    ``settings``: bounds of requests.
    """

    def __init__(self, fleet: Fleet, settings: Settings, counts: Counts) -> None:
        self._fleet, self._settings, self._counts = fleet, settings, counts
        self.state: State = "loading"

    @abstractmethod
    def candidates(self, call: Call) -> AsyncIterator[tuple[Asked, bool]]:
        """Whom to ask, one after the other, and whether others are left; nobody where nobody is
        ready.
        """

    @abstractmethod
    def answers(self, call: Call, member: Asked) -> None:
        """Note that a member answers."""

    @abstractmethod
    def lost(self, member: Asked, why: LostError) -> None:
        """Note that a member was lost while it was asked."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the specification of ASGI."""
        try:
            if scope["path"] in _HEALTH:
                await self._health()(scope, receive, send)
            elif scope["path"] in _LIVE:
                await replied({"status": "ok"})(scope, receive, send)
            elif scope["path"] == "/metrics":
                await (await self._counts.page(_passed(scope["headers"])))(scope, receive, send)
            else:
                await self._forward(scope, receive, send)
        except ClientDisconnect:
            await Response(status_code=499)(scope, receive, send)
        except RefusedError as refusal:
            await refusing(scope["path"], refusal)(scope, receive, send)

    async def becomes_ready(self) -> None:
        """Be ready as soon as a member is."""
        while not await self._fleet.any_ready(60.0):
            pass
        if self.state == "loading":
            self.state = "ready"
            LOG.info("ready")

    def _health(self) -> Response:
        ready, known = len(self._fleet.ready()), len(self._fleet.all)
        if self.state == "draining":
            raise RefusedError(503, "the server is ending", "unavailable_error", retry_after=5)
        if not ready:
            raise self.nobody()
        return replied({"status": "ok", "members": {"ready": ready, "known": known}})

    def nobody(self) -> RefusedError:
        """What clients are told where nobody is ready."""
        told = "Loading model" if self.state == "loading" else "no server behind this one is ready"
        return RefusedError(503, told, "unavailable_error", retry_after=2)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await body_of(request, self._settings)
        entry = entry_of(scope)
        target = scope.get("raw_path") or scope["path"].encode()
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        headers = [*_passed(scope["headers"]), (b"x-request-id", entry.id.encode())]
        if body:
            headers.append((b"content-length", b"%d" % len(body)))
        wanted = keys(body, client_of(request.headers, entry.key))
        call = Call(scope["method"].encode(), target, headers, body, wanted)
        answering = asyncio.ensure_future(_Answer(call, self, scope, send).given())
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
            else:
                entry.gone = True
        finally:
            for task in (answering, gone):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task


class _Answer:
    """The answer to one request."""

    def __init__(self, call: Call, front: Passing, scope: Scope, send: Send) -> None:
        self._call, self._front, self._scope, self._send = call, front, scope, send
        self._kind: bytes | None = None

    async def given(self) -> None:
        """Pass on what a member answers. Raises :class:`RefusedError` where none does."""
        entry, asked = entry_of(self._scope), False
        async for member, others in self._front.candidates(self._call):
            asked, entry.member = True, member.name
            try:
                if await self._by(member, last=not others):
                    return
            except LostError as why:
                self._front.lost(member, why)
                entry.told_of = False
                if self._kind is not None:
                    await self._cut()
                    return
        if not asked:
            raise self._front.nobody()
        raise RefusedError(502, "the servers behind this one were lost: ask again", "server_error")

    async def _by(self, member: Asked, *, last: bool) -> bool:
        """Pass on what this member answers. Not where it takes no more and is not the ``last``."""
        entry, traced = entry_of(self._scope), dict[str, str]()
        with calling(traced, "forward", server_address=member.name):
            async with member.ask(self._call.also(traced)) as reply:
                entry.member = member.name  # which who chooses late knows now
                if reply.status in _ELSEWHERE and not last:
                    return False
                self._front.answers(self._call, member)
                entry.told_of = member.here
                await self._pass_on(reply)
                return True

    async def _pass_on(self, reply: Reply) -> None:
        headers = [(name.lower(), value) for name, value in _passed(reply.headers)]
        kind = dict(headers).get(b"content-type", b"")
        if not kind.startswith(_STREAMS):
            body = b"".join([part async for part in reply.parts])
            headers.append((b"content-length", b"%d" % len(body)))
            await self._begin(reply.status, headers)
            await self._send({"type": "http.response.body", "body": body})
            return
        await self._begin(reply.status, headers)
        self._kind = kind
        async for part in reply.parts:
            await self._send({"type": "http.response.body", "body": part, "more_body": True})
        await self._send({"type": "http.response.body", "body": b""})

    async def _begin(self, status: int, headers: Headers) -> None:
        start = {"type": "http.response.start", "status": status, "headers": headers}
        await self._send(start)

    async def _cut(self) -> None:
        """End a stream whose member is lost."""
        lines = self._kind is not None and self._kind.startswith(_LINES)
        answer = told_of(self._scope["path"], _CUT)
        told = as_json(answer) + b"\n" if lines else event(answer)
        await self._send({"type": "http.response.body", "body": told})


def _passed(headers: Headers) -> Headers:
    return [each for each in headers if each[0].lower() not in _OWN]


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
