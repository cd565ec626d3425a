"""The process of an application that clients reach: it has an engine answer each request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sc2onnx.fleet.asked import Asked
from sc2onnx.fleet.counts import Counts
from sc2onnx.fleet.member import Call, LostError
from sc2onnx.fleet.passing import LOG, TRIES, WAITS, Passing
from sc2onnx.fleet.run import application
from sc2onnx.serve.guard import refusing
from sc2onnx.serve.logs import set_up
from sc2onnx.serve.refusal import RefusedError
from sc2onnx.serve.settings import Settings, is_loopback
from sc2onnx_ray.options import Options
from sc2onnx_ray.replicas import Replicas

_FAR: Final = "without keys only programs of this machine may ask: give the application key_files"


class RayFront(Passing):
    """Has engines answer what clients ask; their request router chooses whom."""

    def __init__(self, replicas: Replicas, settings: Settings, counts: Counts) -> None:
        super().__init__(replicas, settings, counts)
        self._replicas = replicas
        self._beginning: asyncio.Task[None] | None = None

    async def candidates(self, call: Call) -> AsyncIterator[tuple[Asked, bool]]:
        """See :class:`~sc2onnx.fleet.passing.Passing`."""
        tried = set[str]()
        for left in reversed(range(TRIES)):
            if not await self._replicas.any_ready(WAITS):
                raise self.nobody()
            others = self._replicas.left(tried)
            if tried and not others:
                return
            member = self._replicas.one(tried)
            yield member, bool(left) and others > 1
            tried.add(member.name)

    def answers(self, call: Call, member: Asked) -> None:
        """The request router has noted it."""

    def lost(self, member: Asked, why: LostError) -> None:
        """See :class:`~sc2onnx.fleet.passing.Passing`. The request router has noted it."""
        self._counts.lost()
        LOG.warning("%s is lost (%s): others are asked", member.name or "an engine", why)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the specification of ASGI."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._beginning = asyncio.create_task(self._begin())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.state = "draining"
        self._beginning.cancel()
        await send({"type": "lifespan.shutdown.complete"})

    async def _begin(self) -> None:
        await self._replicas.begin()
        await self.becomes_ready()


class Behind:
    """What an application needs behind Ray's proxy, which listens where it was told to, and answers
    a request's id itself: without keys requests from other machines are refused.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._open = app, bool(settings.keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the specification of ASGI."""
        client = scope.get("client")

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["x-request-id"]
            await send(message)

        if scope["type"] == "http" and not self._open and not (client and is_loopback(client[0])):
            refusal = RefusedError(403, _FAR, "permission_error")
            await refusing(scope["path"], refusal)(scope, receive, send)
            return
        await self._app(scope, receive, sending)


@serve.ingress()
class Front:
    """The deployment: ``engines`` is the handle of the other one."""

    def __init__(self, options: Options, engines: DeploymentHandle[Any]) -> None:
        set_up(
            options.configuration.log, {"replica": serve.get_replica_context().replica_id.unique_id}
        )
        self._settings, self._engines = options.settings(), engines

    def __serve_build_asgi_app__(self) -> ASGIApp:
        replicas = Replicas(self._engines)
        counts = Counts(replicas, gathers=True)
        front = RayFront(replicas, self._settings, counts)
        return Behind(application(front, self._settings, counts), self._settings)
