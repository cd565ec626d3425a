"""Engines as a front asks them: through a handle of Ray's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Any, Final

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from sc2onnx.fleet.member import Call, LostError, Reply
from sc2onnx_ray.board import posted
from sc2onnx_ray.route import Route

LOG: Final = logging.getLogger("sc2onnx.ray")

_SOON: Final = 0.05


class Replica:
    """An engine: one that is meant (``name``), or whom the request router finds, whose name is
    known when it answers. ``avoid``: see :class:`~sc2onnx_ray.route.Route`.

    Calls are made outside of the client's request: those of one request share an id in Ray's
    routers, which then route one of them only.
    """

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        name: str = "",
        going: int = 0,
        avoid: tuple[str, ...] = (),
    ) -> None:
        self._handle, self._to, self._avoid = handle, name, avoid
        self.name, self.going, self.ready, self.here = name, going, True, True

    @asynccontextmanager
    async def ask(self, call: Call) -> AsyncIterator[Reply]:
        """See :class:`~sc2onnx.fleet.asked.Asked`."""
        route = Route(tuple(call.keys), bool(call.body), self._avoid, self._to)
        asked = Context().run(
            self._handle.remote, call.method, call.target, call.headers, call.body, route=route
        )
        ended = False

        async def parts(first: bytes) -> AsyncIterator[bytes]:
            nonlocal ended
            if first:
                yield first
            async for part in asked:
                yield part
            ended = True

        try:
            begun = await anext(asked, None)
            if begun is None:
                raise LostError("it gave no answer")
            status, headers, self.name, first = begun
            if self._to not in ("", self.name):
                raise LostError("another one answers")
            yield Reply(status, headers, parts(first))
        except (RayError, RayServeException) as error:
            raise LostError(_short(error)) from error
        finally:
            if not ended:
                asked.cancel()


def _short(error: Exception) -> str:
    """The end of an error of Ray's, which begins with a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:200]}" if lines else type(error).__name__


class Replicas:
    """All engines of an application; see :class:`~sc2onnx.fleet.asked.Fleet`. Ray knows those that
    have loaded, and this process those that its request router was told of.
    """

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._calls = handle.options(stream=True)
        self._names = handle.options(method_name="named")
        self._deployment = handle.deployment_id

    @property
    def all(self) -> list[Replica]:
        """See :class:`~sc2onnx.fleet.asked.Fleet`."""
        return [
            Replica(self._calls, name, going) for name, going in posted(self._deployment).items()
        ]

    def ready(self) -> list[Replica]:
        """Those that answer: all that are known."""
        return self.all

    def left(self, tried: set[str]) -> int:
        """How many have not been asked yet."""
        return len(posted(self._deployment).keys() - tried)

    def one(self, tried: set[str]) -> Replica:
        """Whom the request router finds, someone else than those that were asked before."""
        return Replica(self._calls, avoid=tuple(tried))

    async def begin(self) -> None:
        """Wait for the first of them. A handle looks for replicas once it has been used."""
        while True:
            try:
                await self._names.remote()
                return
            except (RayError, RayServeException) as error:
                LOG.warning("no engine answers yet (%s)", _short(error))
                await asyncio.sleep(1)

    async def any_ready(self, seconds: float) -> bool:
        """See :class:`~sc2onnx.fleet.asked.Fleet`."""
        ends = asyncio.get_running_loop().time() + seconds
        while not self.ready():
            if asyncio.get_running_loop().time() >= ends:
                return False
            await asyncio.sleep(_SOON)
        return True
