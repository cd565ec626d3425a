"""Servers as subprocesses, and how long their answers to a keystroke take."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from editors.keystrokes import File


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds to the first token and to the last, how many there were, and what the server reused
    and computed of the prompt.
    """

    first: float
    last: float
    tokens: int
    reused: int
    computed: int


@dataclass(frozen=True, slots=True)
class Server:
    """A running server that has llama.cpp's ``/infill``."""

    url: str
    process: subprocess.Popen[bytes]
    client: httpx.Client

    def complete(self, file: File, tokens: int, always: int | None = None) -> Took:
        """Complete at a cursor, greedily and to the end, as an editor reads it. ``always``: see
        :func:`body`.
        """
        began, times, last = time.perf_counter(), list[float](), dict[str, Any]()
        with self.client.stream("POST", "/infill", json=body(file, tokens, always)) as reply:
            reply.raise_for_status()
            for line in reply.iter_lines():
                if line.startswith("data: "):
                    times.append(time.perf_counter() - began)
                    last = json.loads(line.removeprefix("data: "))
        timings = last["timings"]
        count = timings["predicted_n"]
        return Took(times[0], times[-1], count, timings["cache_n"], timings["prompt_n"])


def body(file: File, tokens: int, always: int | None = None) -> dict[str, Any]:
    """A request as llama.vim sends it, for so many tokens. ``always``: the token that each of them
    is, for weights whose own tokens are no text.
    """
    start = file.before.rfind("\n") + 1
    return {
        "logit_bias": [] if always is None else [[always, 100.0]],
        "input_prefix": file.before[:start],
        "prompt": file.before[start:],
        "input_suffix": file.after,
        "n_predict": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": True,
        "t_max_prompt_ms": 500,
        "stream": True,
    }


@contextmanager
def ours(bundle: Path, threads: int, *options: str) -> Iterator[Server]:
    """``sc2onnx serve``."""
    command = [sys.executable, "-m", "sc2onnx", "serve", str(bundle.resolve()), "--port", "0"]
    with _started([*command, "--threads", str(threads), *options], None) as server:
        yield server


@contextmanager
def theirs(program: Path, gguf: Path, threads: int, *options: str) -> Iterator[Server]:
    """``llama-server``, with one slot."""
    port = 8000 + os.getpid() % 1000
    number = str(threads)
    command = [
        str(program),
        "-m",
        str(gguf),
        "-c",
        "16384",
        "-t",
        number,
        "-tb",
        number,
        "-np",
        "1",
    ]
    with _started([*command, "--host", "127.0.0.1", "--port", str(port), *options], port) as server:
        yield server


@contextmanager
def _started(command: Sequence[str], port: int | None) -> Iterator[Server]:
    """A server whose log goes to a file, once it is ready. It is ended in any case."""
    libraries = {**os.environ, "LD_LIBRARY_PATH": str(Path(command[0]).parent)}
    with tempfile.NamedTemporaryFile("r", suffix=".log") as log:
        with Path(log.name).open("wb") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=out, env=libraries if port else None
            )
        try:
            url = f"http://127.0.0.1:{port}" if port else _address(Path(log.name), process)
            # as editors ask; llama-server ends a connection after 100 requests
            alone = {"connection": "close"}
            with httpx.Client(base_url=url, timeout=600, headers=alone) as client:
                _ready(client, process)
                yield Server(url, process, client)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    while process.poll() is None:
        if found := re.search(r"http://\S+?(?=,)", log.read_text()):
            return found[0]
        time.sleep(0.02)
    raise RuntimeError(f"the server ended: {log.read_text()[-500:]}")


def _ready(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise RuntimeError("the server ended before it was ready")
