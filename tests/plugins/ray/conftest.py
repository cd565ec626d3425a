"""A Ray cluster of this process's own, with the application of the mini checkpoint."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("ray", reason="Ray is installed in an environment of its own: make ray")

import sc2onnx_ray  # noqa: F401, I001 - first, as it turns Ray's report of usage off
import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from editors.processes import below

SLOTS = 4
"""Requests that an engine computes together."""


@dataclass
class Cluster:
    """The application behind Ray's proxy."""

    url: str
    args: dict[str, Any]
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=60))

    def deploy(self, replicas: int) -> None:
        """Have so many engines, and wait until the front knows them."""
        engines = {"name": "Engine", "num_replicas": replicas}
        application = {
            "import_path": "sc2onnx_ray.app:build",
            "args": self.args,
            "deployments": [engines],
        }
        _get_global_client().deploy_apps(
            ServeDeploySchema(applications=[application]), _blocking=True
        )
        self.until(lambda: self.members() == replicas, 60)

    def members(self) -> int:
        """Engines that the front knows."""
        reply = self.client.get(f"{self.url}/health")
        return int(reply.json()["members"]["ready"]) if reply.status_code == 200 else 0

    def post(self, path: str, body: object, **options: Any) -> httpx.Response:
        """The answer to a body in JSON."""
        return self.client.post(self.url + path, json=body, **options)

    def processing(self) -> float:
        """Requests that the engines compute."""
        name = "llamacpp:requests_processing"
        page = self.client.get(f"{self.url}/metrics").text
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name)
        )

    def until(self, holds: Any, seconds: float) -> None:
        """Wait for something. Raises :class:`AssertionError`."""
        ends = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < ends, "it did not come to be"
            time.sleep(0.02)


@pytest.fixture(scope="session")
def cluster(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    os.environ["RAY_prestart_worker_first_driver"] = "0"  # noqa: SIM112 - Ray spells it so
    port = free_port()
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        args = {
            "models": {"mini": str(bundle)},
            "cores": 0.5,
            "max_batch": SLOTS,
            "prefix_memory": 1 << 28,
            "drain_seconds": 2.0,
        }
        found = Cluster(f"http://127.0.0.1:{port}", args)
        found.deploy(2)
        yield found
    finally:
        serve.shutdown()
        ray.shutdown()


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


def engines() -> list[int]:
    """Process ids of the engines of this process's cluster."""
    return below(os.getpid(), "ray::ServeReplica:default:Engine")


def kill(process: int) -> None:
    """End a process at once."""
    os.kill(process, signal.SIGKILL)
