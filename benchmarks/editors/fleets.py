"""Fleets to ask: workers of one server, or engines of a Ray application."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from editors.processes import below
from editors.servers import ours


@dataclass(frozen=True, slots=True)
class Fleet:
    """A fleet that is ready. ``engines``: its processes that compute; ``scale``: has so many of
    them, None where it cannot.
    """

    url: str
    engines: Callable[[], list[int]]
    scale: Callable[[int], None] | None = None

    def kill(self) -> None:
        """End one of them at once."""
        os.kill(self.engines()[0], signal.SIGKILL)


@contextmanager
def workers(bundle: Path, count: int, threads: int) -> Iterator[Fleet]:
    """``sc2onnx serve --workers``."""
    with ours(bundle, threads, "--workers", str(count), "--no-speculate") as server:
        _until_ready(server.url, count)
        yield Fleet(server.url, lambda: below(server.process.pid, "sc2onnx.fleet.worker"))


@contextmanager
def ray_application(bundle: Path, count: int, threads: int) -> Iterator[Fleet]:
    """The application of plugins/ray, on a cluster of this process's own."""
    import sc2onnx_ray  # noqa: F401, I001 - first, as it turns Ray's report of usage off
    import ray
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    args = {
        "models": {"model": str(bundle.resolve())},
        "threads": threads,
        "cores": 0.5,
        "speculate": False,
    }
    url = f"http://127.0.0.1:{port}"

    def scale(engines: int) -> None:
        named = {"name": "Engine", "num_replicas": engines}
        application = {"import_path": "sc2onnx_ray.app:build", "args": args, "deployments": [named]}
        _get_global_client().deploy_apps(
            ServeDeploySchema(applications=[application]), _blocking=True
        )
        _until_ready(url, engines)

    ray.init(num_cpus=max(4, count), include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        scale(count)
        yield Fleet(url, lambda: below(os.getpid(), "ray::ServeReplica:default:Engine"), scale)
    finally:
        serve.shutdown()
        ray.shutdown()


def _until_ready(url: str, count: int) -> None:
    ends = time.monotonic() + 120
    while time.monotonic() < ends:
        try:
            found = httpx.get(f"{url}/health", timeout=5)
            if found.status_code == 200 and found.json()["members"]["ready"] == count:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"{count} engines are not ready after two minutes")
