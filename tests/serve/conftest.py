"""A server of the mini checkpoint, on a port of its own, in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn

import sc2onnx
from sc2onnx.serve.app import application
from sc2onnx.serve.connections import bounded
from sc2onnx.serve.run import bound
from sc2onnx.serve.service import Service
from sc2onnx.serve.settings import Settings


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str
    service: Service
    model: sc2onnx.Model

    def post(self, path: str, body: object, **options: object) -> httpx.Response:
        """The answer to a body in JSON."""
        return httpx.post(
            self.url + path,
            json=body,
            timeout=60,
            **options,  # type: ignore[arg-type]
        )

    def get(self, path: str, **options: object) -> httpx.Response:
        """The answer to a question."""
        return httpx.get(self.url + path, timeout=60, **options)  # type: ignore[arg-type]


@contextmanager
def serving(model: sc2onnx.Model, settings: Settings | None = None) -> Iterator[Served]:
    settings = settings or Settings(port=0)
    service, listening = Service(settings), bound(settings)
    config = uvicorn.Config(
        application(service),
        log_config=None,
        lifespan="off",
        access_log=False,
        http=bounded(settings),
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    service.ready({"mini": model})
    thread.start()
    try:
        host, port = listening.getsockname()[:2]
        yield Served(f"http://{host}:{port}", service, model)
    finally:
        server.should_exit = True
        thread.join(30)
        model.stop()
        assert not thread.is_alive()
        assert not service.under_way


@pytest.fixture(scope="module")
def served(bundle: Path) -> Iterator[Served]:
    with serving(sc2onnx.load(bundle)) as running:
        yield running
