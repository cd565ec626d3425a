"""Runs a front: before workers on this machine, or before servers on others."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from starlette.types import ASGIApp

from sc2onnx.fleet.counts import Counts
from sc2onnx.fleet.discovery import Discovery
from sc2onnx.fleet.front import Front
from sc2onnx.fleet.members import Members
from sc2onnx.fleet.passing import Passing
from sc2onnx.fleet.workers import Workers
from sc2onnx.serve.configuration import Configuration
from sc2onnx.serve.guard import Guard
from sc2onnx.serve.logs import Logged
from sc2onnx.serve.run import Server, bound, shown
from sc2onnx.serve.settings import Settings
from sc2onnx.serve.tracing import Traced, provider, sent

LOG: Final = logging.getLogger("sc2onnx.fleet")


def application(front: Passing, settings: Settings, counts: Counts) -> ASGIApp:
    """A front as it is served: looks who may ask, and has a line in the log for each request."""
    return Logged(Guard(front, settings), lambda: front.state == "draining", counts.answered)


def serve_workers(configuration: Configuration, keys: Sequence[str]) -> None:
    """Serve with several processes until a signal ends them.

    Raises :class:`~sc2onnx.errors.OutputError` for an address that cannot be had, and where no
    worker can serve; :class:`~sc2onnx.errors.RequestError` for more workers than there are cores.
    """
    settings = configuration.settings(tuple(keys))
    listening = bound(settings)
    asyncio.run(_serve_workers(configuration, settings, listening))


async def _serve_workers(
    configuration: Configuration, settings: Settings, listening: socket.socket
) -> None:
    workers = Workers(configuration, settings.keys)
    counts = Counts(workers.members, gathers=True)
    front = Front(workers.members, configuration.max_batch, settings, counts)
    running = asyncio.create_task(workers.run())
    try:
        await _until_ended(front, settings, counts, listening, running)
    finally:
        await workers.end(settings.drain_seconds)
        with suppress(Exception):  # which was raised already
            await _ended(running)


def route(settings: Settings, members: Members, found: Discovery | None, slots: int) -> None:
    """Pass requests on to servers until a signal ends it. ``found``: where more of them are looked
    for. ``slots``: requests that one of them computes together.

    Raises :class:`~sc2onnx.errors.OutputError` for an address that cannot be had.
    """
    asyncio.run(_route(settings, members, found, slots, bound(settings)))


async def _route(
    settings: Settings,
    members: Members,
    found: Discovery | None,
    slots: int,
    listening: socket.socket,
) -> None:
    counts = Counts(members, gathers=False)
    front = Front(members, slots, settings, counts)
    members.start()
    looking = asyncio.create_task(_forever() if found is None else found.run(members))
    try:
        await _until_ended(front, settings, counts, listening, looking)
    finally:
        await _ended(looking)
        await members.stop()


async def _until_ended(
    front: Front,
    settings: Settings,
    counts: Counts,
    listening: socket.socket,
    running: asyncio.Task[None],
) -> None:
    """Serve a front until a signal ends it, or what it needs has failed, which is raised."""

    def draining() -> None:
        front.state = "draining"

    traces = provider(settings.traces)
    app = application(front, settings, counts)
    server = Server(app if traces is None else Traced(app, traces), settings, draining)
    serving = asyncio.create_task(server.serve([listening]))
    LOG.info("listening on %s, loading", shown(listening))
    ready = asyncio.create_task(front.becomes_ready())
    try:
        await asyncio.wait({serving, running}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        server.should_exit = True
        await _ended(ready)
        await serving
        if traces is not None:
            await sent(traces)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _forever() -> None:
    await asyncio.Event().wait()
