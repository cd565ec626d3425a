"""Runs a command beside a Ray application that takes the clients of tests/clients: two engines, the
models, the key and the bounds of their server.

    python -m tests.plugins.ray.clients FIXTURE COMMAND...
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import sc2onnx_ray  # noqa: F401 - first: Ray reads its environment as it is imported

# isort: split
import ray
from ray import serve

from sc2onnx_ray.app import build
from tests.clients.conftest import URL
from tests.clients.server import KEY, MODELS, WAITING
from tests.instruct import instruct
from tests.plugins.ray.conftest import free_port


def main() -> int:
    """The command's status."""
    fixture, *command = sys.argv[1:]
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        keys.write_text(f"{KEY}\n")
        bundles = [str(Path(fixture).resolve() / name) for name in ("bundle", "int8")]
        bundles.append(str(instruct(Path(bundles[0]), Path(folder) / "instruct")))
        args = {
            "models": dict(zip(MODELS, bundles, strict=True)),
            "key_files": [str(keys)],
            "waiting": WAITING,
            "max_batch": 2,
            "replicas": 2,
            "cores": 0.5,
        }
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(build(args))
        found = subprocess.run(
            command, check=False, env={**os.environ, URL: f"http://127.0.0.1:{port}"}
        )
        serve.shutdown()
        return found.returncode


if __name__ == "__main__":
    raise SystemExit(main())
