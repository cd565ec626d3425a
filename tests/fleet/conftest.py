"""A front in a thread, before members of any kind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import uvicorn
from starlette.types import ASGIApp

from sc2onnx.fleet.counts import Counts
from sc2onnx.fleet.front import Front
from sc2onnx.fleet.member import Member
from sc2onnx.fleet.members import Members
from sc2onnx.fleet.run import application
from sc2onnx.serve.run import bound, shown
from sc2onnx.serve.settings import Settings


@dataclass(frozen=True)
class Fronted:
    """A running front."""

    url: str
    front: Front
    members: Members

    def post(self, path: str, body: object, **options: object) -> httpx.Response:
        """The answer to a body in JSON."""
        return httpx.post(
            self.url + path,
            json=body,
            timeout=60,
            **options,  # type: ignore[arg-type]
        )

    def get(self, path: str) -> httpx.Response:
        """The answer to a question."""
        return httpx.get(self.url + path, timeout=60)


@contextmanager
def fronting(
    *urls: str,
    slots: int = 8,
    settings: Settings | None = None,
    around: Callable[[ASGIApp], ASGIApp] = lambda app: app,
) -> Iterator[Fronted]:
    """A front before servers, when as many of them are ready as there are. ``around``: wraps it."""
    settings = settings or Settings(port=0)
    members = Members(Member(f"member-{number}", url) for number, url in enumerate(urls))
    counts = Counts(members, gathers=True)
    front, listening = Front(members, slots, settings, counts), bound(settings)
    config = uvicorn.Config(
        around(application(front, settings, counts)),
        log_config=None,
        lifespan="off",
        access_log=False,
    )
    server = uvicorn.Server(config)

    async def run() -> None:
        members.start()
        ready = asyncio.ensure_future(front.becomes_ready())
        await server.serve([listening])
        ready.cancel()
        await members.stop()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        until(lambda: len(members.ready()) == len(urls) and (not urls or front.state == "ready"))
        yield Fronted(shown(listening), front, members)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
        assert not any(member.going for member in members.all)


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something holds."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "it never does"
        time.sleep(0.01)
