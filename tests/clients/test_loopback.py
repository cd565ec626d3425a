"""The watch over what clients try to reach sees it, from Python and from Node.js."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients import node

URL = "http://203.0.113.1/"  # an address for documentation, which nobody has


def tries(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode != 0
    assert b"is not this machine" in done.stderr


def test_python(outside: Path) -> None:
    tries([sys.executable, "-c", f"import httpx; httpx.get({URL!r})"], dict(os.environ))
    assert "tried 203.0.113.1" in outside.read_text()


def test_node(outside: Path) -> None:
    if reason := node.missing():
        pytest.skip(reason)
    for program in (f"fetch('{URL}')", f"require('http').get('{URL}')"):
        outside.write_text("")
        tries(["node", "-e", program], node.environment())
        assert "tried 203.0.113.1" in outside.read_text()
