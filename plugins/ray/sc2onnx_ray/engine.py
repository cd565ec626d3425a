"""The process of an application that computes: the server's own, without a network."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Final

import ray
from ray import serve

from sc2onnx.fleet.member import Call, Headers
from sc2onnx.runtime.model import Model
from sc2onnx.serve.app import application
from sc2onnx.serve.loading import loaded
from sc2onnx.serve.logs import set_up
from sc2onnx.serve.service import Service
from sc2onnx_ray.cores import pinned
from sc2onnx_ray.driving import Begun, answered
from sc2onnx_ray.options import Options
from sc2onnx_ray.route import Route
from sc2onnx_ray.scaling import Pressure

Signed = tuple[int, Headers, str, bytes]
"""How an answer begins: its status, its headers, the replica's name, and its body so far."""

LOG: Final = logging.getLogger("sc2onnx.ray")


class Engine:
    """The deployment. Ray sends requests to it once its bundles are loaded."""

    async def __init__(self, options: Options) -> None:  # type: ignore[misc]
        self._name: str = serve.get_replica_context().replica_id.unique_id
        set_up(options.configuration.log, {"replica": self._name})
        self._options = options
        self._service = Service(options.settings())
        self._app = application(self._service)
        self._cores = (
            pinned(options.threads) if options.pin and options.cores == options.threads else None
        )
        self._service.ready(await asyncio.to_thread(self._load))
        self._pressure = Pressure(self._service)
        LOG.info("ready: %s", ", ".join(self._service.names))

    def _load(self) -> Mapping[str, Model]:
        options = self._options
        beside = max(1, int(_node_cores() / options.cores))
        return loaded(replace(options.configuration, threads=options.threads, workers=beside))

    async def __call__(
        self,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: bytes,
        route: Route | None = None,
    ) -> AsyncIterator[Signed | bytes]:
        """The answer to a request: how it begins, then parts of its body as they come.
        ``route``: is for the request router.
        """
        call = Call(method, target, headers, body)
        async with aclosing(answered(self._app, call)) as parts:
            async for part in parts:
                yield part if isinstance(part, bytes) else self._signed(part)

    def _signed(self, begun: Begun) -> Signed:
        status, headers, body = begun
        return status, headers, self._name, body

    async def named(self) -> str:
        """The replica's name."""
        return self._name

    def check_health(self) -> None:
        """Ray starts another engine where this raises, a few times in a row."""
        for name, model in self._service.loaded.items():
            if self._service.state == "ready" and not model.engine.threaded:
                raise RuntimeError(f"nobody computes {name} any more")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What :func:`~sc2onnx_ray.scaling.engines` decides by."""
        return self._pressure.stats()

    async def __del__(self) -> None:
        """Ray has waited for requests to end before it calls this."""
        if hasattr(self, "_pressure"):
            await self._service.drain()


def _node_cores() -> float:
    """Cores of this node as Ray counts them. As many engines as fit share its memory."""
    here = ray.get_runtime_context().get_node_id()
    return next(
        (each["Resources"].get("CPU", 1.0) for each in ray.nodes() if each["NodeID"] == here), 1.0
    )
