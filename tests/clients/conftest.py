"""One server for all clients, and a watch over what they try to reach."""

from __future__ import annotations

import os
import runpy
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest

from tests.clients.server import Server, known, started
from tests.clients.whereabouts import HERE

ABSENT: Final = "the clients are installed in an environment of their own: make clients"

URL: Final = "SC2ONNX_CLIENTS_URL"
"""The variable that has the address of a server which runs already, such as a Ray application
(tests/plugins/ray/clients.py).
"""

SWITCHES: Final = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it would fetch a list of prices when it is imported
    "LITELLM_TELEMETRY": "False",
    "HF_HUB_OFFLINE": "1",  # litellm would fetch a tokenizer to count with, and a template
    "DO_NOT_TRACK": "1",
    "AI_SDK_TELEMETRY_DISABLED": "1",
    "NO_PROXY": "127.0.0.1,localhost",
    "HTTP_PROXY": "",
    "HTTPS_PROXY": "",
    "PYTHONPATH": os.pathsep.join(
        part for part in (str(HERE / "loopback"), os.environ.get("PYTHONPATH")) if part
    ),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Clients run where all are installed: the suite's own environment has some packages only."""
    if find_spec("litellm") is None:
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=ABSENT))


@pytest.fixture(scope="session")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file of what clients tried to reach that is not this machine."""
    written = tmp_path_factory.mktemp("outside") / "tried"
    written.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SC2ONNX_OUTSIDE", str(written))
        for name, value in SWITCHES.items():
            patch.setenv(name, value)
        runpy.run_path(str(HERE / "loopback" / "sitecustomize.py"))
        yield written


@pytest.fixture(scope="session")
def server(
    bundle: Path, int8_bundle: Path, outside: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("server")
    if url := os.environ.get(URL):
        yield known(url, directory)
        return
    with started(bundle, int8_bundle, directory) as running:
        yield running
