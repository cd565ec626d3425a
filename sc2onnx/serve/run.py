"""Runs a server: it listens at once, loads its models, and ends in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

from sc2onnx.errors import OutputError
from sc2onnx.runtime.model import Model
from sc2onnx.serve.app import application
from sc2onnx.serve.connections import bounded
from sc2onnx.serve.service import Service
from sc2onnx.serve.settings import Settings
from sc2onnx.serve.threads import in_daemon
from sc2onnx.serve.tracing import Traced, provider, sent

LOG: Final = logging.getLogger("sc2onnx.serve")

_BACKLOG: Final = 256
"""Connections that wait to be accepted."""

_HEADERS: Final = 16 << 10
"""Bytes of a request's line and headers."""


Load = Callable[[], Mapping[str, Model]]
Tell = Callable[[str], None]


def serve(
    settings: Settings,
    load: Load,
    tell: Tell = LOG.info,
    listening: socket.socket | None = None,
) -> None:
    """Serve until a signal ends it. ``load``: gives the models by name, while ``/health`` says so.
    ``tell``: is told where it listens, and when it is ready. ``listening``: a socket that listens
    already, by default one at the settings' address.

    Raises what ``load`` raises, and :class:`~sc2onnx.errors.OutputError` for an address that cannot
    be had.
    """
    listening = bound(settings) if listening is None else listening
    asyncio.run(_serve(settings, load, tell, listening))


async def _serve(settings: Settings, load: Load, tell: Tell, listening: socket.socket) -> None:
    service = Service(settings)

    def draining() -> None:
        service.state = "draining"

    traces = provider(settings.traces)
    app = application(service)
    server = Server(app if traces is None else Traced(app, traces), settings, draining)
    going = asyncio.create_task(server.serve([listening]))
    tell(f"listening on {shown(listening)}, loading")
    loading = asyncio.ensure_future(in_daemon(load))
    try:
        either: set[asyncio.Future[Any]] = {loading, going}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not going.done():
            service.ready(await loading)
            tell(f"ready: {', '.join(service.names)}")
            await going
    finally:
        server.should_exit = True
        await going
        await service.drain()
        if traces is not None:
            await sent(traces)


class Server(uvicorn.Server):
    """uvicorn's, of an application. ``draining``: is called when a signal has it end."""

    def __init__(self, app: ASGIApp, settings: Settings, draining: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                http=bounded(settings),
                h11_max_incomplete_event_size=_HEADERS,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
            )
        )
        self._draining = draining

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """A signal ends it in order, and that is all: uvicorn would
        raise it once more in the end.
        """
        before = {
            sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal ends it."""
        self._draining()
        super().handle_exit(sig, frame)


def bound(settings: Settings) -> socket.socket:
    """A socket that listens at the address. Raises :class:`~sc2onnx.errors.OutputError`."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # by which asyncio knows that small writes go at once
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
        listening.listen(_BACKLOG)  # at once: who is told of the address may connect
    except OSError as error:
        listening.close()
        raise OutputError(
            f"cannot listen on {settings.host}:{settings.port} "
            f"({error.strerror}): choose another --port"
        ) from error
    return listening


def shown(listening: socket.socket) -> str:
    """The address of a socket that listens."""
    if listening.family == socket.AF_UNIX:
        return str(listening.getsockname())
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
