"""A bundle served by Triton. ``SC2ONNX_TRITON_PYTHON`` names a Python that has
PyTriton and a shared library.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import sc2onnx
from tests.conftest import ROOT

PYTHON = os.environ.get("SC2ONNX_TRITON_PYTHON")
BEFORE, AFTER = "def add(a, b):\n    return", "\n\nprint(add(1, 2))\n"

pytestmark = pytest.mark.skipif(PYTHON is None, reason="SC2ONNX_TRITON_PYTHON is not set")


@pytest.fixture(scope="module")
def triton(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where it listens, when it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = ROOT / "deploy" / "triton" / "serve.py"
    command = [str(PYTHON), str(script), str(bundle), "--name", "mini", "--port", str(port)]
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTRITON_HOME": str(tmp_path_factory.mktemp("triton")),
    }
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address, until = f"http://127.0.0.1:{port}/v2/models/mini", time.monotonic() + 90
    try:
        while not _ready(address):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.2)
        yield address
        process.terminate()
        process.wait(60)
    finally:
        process.kill()
        process.wait()


def _ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_it_completes_and_fills_in_as_the_model_does(triton: str, bundle: Path) -> None:
    model = sc2onnx.load(bundle)
    whole = model.generate(BEFORE, max_new_tokens=12).text
    middle = model.infill(BEFORE, AFTER, max_new_tokens=12, order="spm", heal=True).text
    for asked, expected in (({}, whole), ({"suffix": AFTER}, middle)):
        body = {"text_input": BEFORE, "max_tokens": 12, **asked}
        reply = httpx.post(f"{triton}/generate", json=body, timeout=60)
        assert reply.status_code == 200, reply.text
        assert reply.json()["text_output"] == expected


def test_a_mistake_is_told(triton: str) -> None:
    body = {"text_input": BEFORE, "max_tokens": -1}
    reply = httpx.post(f"{triton}/generate", json=body, timeout=60)
    assert reply.status_code >= 400
    assert "max_new_tokens" in reply.text
