"""Runs what a model wrote, with tests, in a process of its own that the system bounds.

What it holds is a model's mistakes: loops without end, memory without end, files that are written
or removed, programs that are started, connections that are opened. It is no prison for code that
somebody wrote to break out: for a model that you do not trust, run the whole in a container.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from sc2onnx.errors import RequestError

_PROGRAM: Final = Path(__file__).with_name("contained_program.py")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one program: ``seconds`` of processor time, and twice as many and ten by the clock; bytes
    of ``memory``.
    """

    seconds: float = 5.0
    memory: int = 512 << 20


def check_containment() -> None:
    """Raise :class:`RequestError` where this system cannot bound a process."""
    if find_spec("resource") is None or not sys.executable or getattr(sys, "frozen", False):
        raise RequestError(
            "the task 'programs' executes what a model wrote, and this system has no bounds for "
            "such a process (or no Python interpreter): leave it out of --suite"
        )


def passes(code: str, tests: str, bounds: Bounds | None = None) -> bool:
    """Whether ``code`` and then ``tests`` run to their end. The process has an empty directory and
    environment, no network, no files, and no children, and is ended when its time is over.
    """
    bounds = bounds or Bounds()
    token = secrets.token_hex(16)
    asked = json.dumps({"code": code, "tests": tests, "token": token}).encode()
    with tempfile.TemporaryDirectory(prefix="sc2onnx-") as empty, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(_PROGRAM), *_words(bounds)],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.DEVNULL,
            env={},
            cwd=empty,
            start_new_session=True,
        )
        try:
            process.communicate(asked, timeout=2 * bounds.seconds + 10)
        except subprocess.TimeoutExpired:
            return False
        finally:
            _end(process)
        said.seek(0)
        return said.read(1 << 10) == token.encode()


def _words(bounds: Bounds) -> tuple[str, str]:
    return str(bounds.seconds), str(bounds.memory)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever is of its session."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
