"""A server of the mini checkpoint in a process of its own, and questions to it without a client."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from tests.instruct import instruct

KEY: Final = "the-key-of-the-clients"
MODELS: Final = ("starcoder-mini", "starcoder-mini-int8", "starcoder-mini-chat")

PROMPT: Final = "import os\n\n\ndef exists(path):\n    if os.path"
SUFFIX: Final = "\n        return True\n    return False\n"
TOKENS: Final = 24

MESSAGES: Final = (
    {"role": "system", "content": "You write code."},
    {"role": "user", "content": "Write a function that adds."},
)
"""A conversation."""

ENDLESS: Final = "import os\n"
"""A prompt whose greedy completion goes on for :data:`MOST` tokens at least."""

MOST: Final = 1800
TOO_MANY: Final = 5000
"""More tokens than the server gives."""

WAITING: Final = 8
"""Requests that the server has under way before it tells others to come later."""

TOO_LONG: Final = "x = 1\n" * 1500
"""A prompt that does not fit into the context."""

_ARGUMENTS: Final = ("--waiting", str(WAITING), "--max-batch", "2", "--port", "0")


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: three models, at most :data:`WAITING` requests.

    It takes :data:`KEY`. ``completion``: what follows :data:`PROMPT`, greedily. ``infilling``: what
    stands between :data:`PROMPT` and :data:`SUFFIX`. ``answer``: what its model that chats says to
    :data:`MESSAGES`. ``directory``: for files of clients.
    ``seconds``: in which it must hear that a client is gone, too few for :data:`MOST` tokens.
    """

    url: str
    completion: str
    infilling: str
    answer: str
    directory: Path
    seconds: float

    @property
    def model(self) -> str:
        """The name of the first model."""
        return MODELS[0]

    @property
    def chatting(self) -> str:
        """The name of the model that chats."""
        return MODELS[2]

    def scratch(self) -> Path:
        """A new directory."""
        return Path(tempfile.mkdtemp(dir=self.directory))

    def metric(self, name: str) -> float:
        """A figure of ``/metrics``, of all engines together where there are several."""
        page = _got(f"{self.url}/metrics").text
        found = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", page, re.MULTILINE)
        assert found, f"/metrics has no {name}"
        return sum(map(float, found))

    def under_way(self) -> float:
        """Requests under way, and no fewer than are computed in this moment."""
        slots = _got(f"{self.url}/slots").json()
        computed = sum(bool(slot["is_processing"]) for slot in slots)
        states = ("processing", "deferred")
        return max(computed, sum(self.metric(f"llamacpp:requests_{each}") for each in states))

    def busy(self, least: int = 1) -> None:
        """Wait for so many requests under way. Raises :class:`AssertionError` after two seconds."""
        until = time.monotonic() + 2
        while (found := self.under_way()) < least:
            assert time.monotonic() < until, f"{found} requests are under way, expected {least}"
            time.sleep(0.01)

    def idle(self, most: int = 0, within: float = 1.0) -> None:
        """Wait for as few under way. Raises :class:`AssertionError` after so many seconds."""
        until = time.monotonic() + within
        while (found := self.under_way()) > most:
            assert time.monotonic() < until, f"{found} requests go on, expected {most}"
            time.sleep(0.01)

    @contextmanager
    def gives_up(self) -> Iterator[None]:
        """A block that begins a stream of :data:`MOST` tokens and gives it up before its end."""
        before = self.metric("llamacpp:tokens_predicted_total")
        yield
        self.idle(within=self.seconds)
        assert self.metric("llamacpp:tokens_predicted_total") - before < MOST

    @contextmanager
    def held(self, count: int = WAITING) -> Iterator[None]:
        """A block in which so many requests of somebody else are under way, of :data:`WAITING` at
        every engine.
        """
        with ExitStack() as stack:
            for _ in range(count * (self.engines if count == WAITING else 1)):
                stack.enter_context(self._one_held())
            yield
        self.idle()

    @contextmanager
    def _one_held(self) -> Iterator[None]:
        body = {
            "model": self.model,
            "prompt": ENDLESS,
            "max_tokens": MOST,
            "temperature": 0,
            "stream": True,
        }
        with httpx.stream(
            "POST", f"{self.url}/v1/completions", json=body, headers=_HEADERS, timeout=60
        ) as reply:
            assert reply.status_code == 200
            yield

    @property
    def engines(self) -> int:
        """How many of them answer: a fleet says so."""
        return int(_got(f"{self.url}/health").json().get("members", {}).get("ready", 1))


_HEADERS: Final = {"authorization": f"Bearer {KEY}"}


def post(url: str, body: object, key: str = KEY) -> Any:
    """The answer to a body in JSON."""
    return httpx.post(url, json=body, headers={"authorization": f"Bearer {key}"}, timeout=60).json()


def _got(url: str) -> httpx.Response:
    return httpx.get(url, headers=_HEADERS, timeout=60)


@contextmanager
def started(bundle: Path, int8: Path, directory: Path) -> Iterator[Server]:
    """The server as a user starts it, ready to answer. ``directory``: for its key."""
    (directory / "keys").write_text(f"{KEY}\n")
    command = [
        sys.executable,
        "-m",
        "sc2onnx",
        "serve",
        str(bundle),
        "--alias",
        MODELS[0],
        "--model",
        f"{MODELS[1]}={int8}",
        "--model",
        f"{MODELS[2]}={instruct(bundle, directory / 'instruct')}",
    ]
    command += ["--key-file", str(directory / "keys"), *_ARGUMENTS]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        yield known(_address(process, directory / "log"), directory)
    finally:
        process.terminate()
        process.wait(30)


def known(url: str, directory: Path) -> Server:
    """A server that runs there, with what its models complete."""
    code = {"input_prefix": PROMPT, "input_suffix": SUFFIX}
    options = {"n_predict": TOKENS, "temperature": 0, "model": MODELS[0]}
    completion = post(f"{url}/completion", {**options, "prompt": PROMPT})["content"]
    infilling = post(f"{url}/infill", {**options, **code})["content"]
    chat = {"model": MODELS[2], "messages": MESSAGES, "max_tokens": TOKENS, "temperature": 0}
    said = post(f"{url}/v1/chat/completions", chat)["choices"][0]["message"]["content"]
    return Server(url, completion, infilling, said, directory, min(1.0, _endless(url) / 2))


def _endless(url: str) -> float:
    """Seconds that the completion takes which clients give up, once it has been computed before."""
    body = {"model": MODELS[0], "prompt": ENDLESS, "n_predict": MOST, "temperature": 0}
    for _ in range(2):
        since = time.monotonic()
        ended = post(f"{url}/completion", body)
        assert ended["stop_type"] == "limit", "the completion that clients give up ends by itself"
    return time.monotonic() - since


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where it listens, when it is ready."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        told = log.read_text()
        address = re.search(r"http://\S+?(?=,)", told)
        if address is not None and "ready: " in told:
            return address[0]
        time.sleep(0.05)
    raise AssertionError(f"the server is not ready after a minute:\n{log.read_text()}")
