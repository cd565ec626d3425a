"""Tabby's editor agent, as a language server, configured by its file."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

from tests.clients import node
from tests.clients.client import Client, Lack
from tests.clients.server import KEY, PROMPT, SUFFIX, WAITING, Server, post
from tests.clients.whereabouts import NODE

_CONFIGURATION: Final = """
[server]
endpoint = "{url}"
token = "{key}"

[completion.debounce]
mode = "fixed"
interval = 0

[logs]
level = "debug"

[anonymousUsageTracking]
disable = true
"""

_BEGINNING: Final = "def sub(a, b):\n    return "
"""Code whose completion repeats nothing: the agent drops what does."""

_URI: Final = "file:///work/{}.py"


class Agent:
    """A running agent. ``home``: where its configuration and its log are. For one thread."""

    def __init__(self, process: subprocess.Popen[bytes], home: Path) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._home, self._to = home, process.stdin
        self._came = queue.Queue[dict[str, Any]]()
        self._number, self._heard = 0, list[dict[str, Any]]()
        threading.Thread(target=_read, args=(process.stdout, self._came), daemon=True).start()

    def ask(self, method: str, parameters: object) -> int:
        """Send a request. Gives its number."""
        self._number += 1
        self._send({"id": self._number, "method": method, "params": parameters})
        return self._number

    def tell(self, method: str, parameters: object) -> None:
        """Send a notification."""
        self._send({"method": method, "params": parameters})

    def answer(self, number: int) -> Any:
        """The result of a request. Raises :class:`queue.Empty` after half a minute."""
        return self.heard(lambda message: message.get("id") == number)["result"]

    def heard(self, wanted: Any) -> dict[str, Any]:
        """The first message that is wanted. Raises :class:`queue.Empty` after half a minute."""
        for message in self._heard:
            if wanted(message):
                return message
        while not wanted(message := self._came.get(timeout=30)):
            self._heard.append(message)
        return message

    def completion(self, name: str, before: str, after: str = "") -> int:
        """Ask for completions of a new document, at the cursor. Gives the request's number."""
        uri = _URI.format(name)
        document = {"uri": uri, "languageId": "python", "version": 1, "text": before + after}
        self.tell("textDocument/didOpen", {"textDocument": document})
        lines = before.split("\n")
        position = {"line": len(lines) - 1, "character": len(lines[-1])}
        return self.ask(
            "textDocument/completion", {"textDocument": {"uri": uri}, "position": position}
        )

    def completed(self, name: str, before: str, after: str = "") -> list[str]:
        """The completions of a new document, at the cursor."""
        return [
            item["textEdit"]["newText"]
            for item in self.answer(self.completion(name, before, after))["items"]
        ]

    def logged(self, words: str) -> bool:
        """Whether its log has these words, within ten seconds."""
        until = time.monotonic() + 10
        while time.monotonic() < until:
            if any(
                words in path.read_text()
                for path in (self._home / ".tabby-client" / "agent" / "logs").glob("*.log")
            ):
                return True
            time.sleep(0.05)
        return False

    def _send(self, message: dict[str, object]) -> None:
        raw = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._to.write(b"Content-Length: %d\r\n\r\n%s" % (len(raw), raw))
        self._to.flush()


def _read(source: IO[bytes], came: queue.Queue[dict[str, Any]]) -> None:
    while line := source.readline():
        if line.lower().startswith(b"content-length:"):
            source.readline()
            came.put(json.loads(source.read(int(line.split(b":")[1]))))


@contextmanager
def running(server: Server, key: str = KEY) -> Iterator[Agent]:
    """The agent of an editor, whose user told it to tell its makers nothing."""
    home = server.scratch()
    (home / ".tabby-client" / "agent").mkdir(parents=True)
    told = _CONFIGURATION.format(url=server.url, key=key)
    (home / ".tabby-client" / "agent" / "config.toml").write_text(told)
    program = NODE / "node_modules" / "tabby-agent" / "dist" / "cli.js"
    command = ["node", str(program), "--lsp", "--stdio"]
    pipe, environment = subprocess.PIPE, {**node.environment(), "HOME": str(home)}
    process = subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment, cwd=home
    )
    try:
        agent = Agent(process, home)
        editor = {
            "processId": None,
            "rootUri": None,
            "capabilities": {},
            "clientInfo": {"name": "an editor"},
        }
        about = agent.answer(agent.ask("initialize", editor))
        assert "completionProvider" in about["capabilities"]
        agent.tell("initialized", {})
        yield agent
    finally:
        process.kill()
        process.wait()


def completes(server: Server) -> None:
    with running(server) as agent:
        [text] = agent.completed("one", _BEGINNING)
        assert text.strip()
        assert agent.logged("disable_client_side_telemetry")  # as the server says


def infills(server: Server) -> None:
    with running(server) as agent:
        [text] = agent.completed("one", PROMPT, SUFFIX)
    body = {"language": "python", "segments": {"prefix": PROMPT, "suffix": SUFFIX}}
    word = "path"  # the one before the cursor, which it replaces
    assert text == word + post(f"{server.url}/v1/completions", body)["choices"][0]["text"]


def cancels(server: Server) -> None:
    """Somebody goes to another file, an empty one, for which nothing is asked of the server."""
    with running(server) as agent, server.held(4):
        agent.completion("one", PROMPT, SUFFIX)
        server.busy(5)
        agent.completion("empty", "")
        server.idle(4)


def errors(server: Server) -> None:
    with running(server, "another-key") as agent:
        message = agent.heard(lambda each: each.get("method") == "window/showMessage")
        assert "unauthorized" in message["params"]["message"]
    with running(server) as agent:
        with server.held(WAITING):
            assert agent.completed("one", _BEGINNING) == []
            assert agent.logged("429")
        assert agent.completed("two", _BEGINNING)


_NO_STREAMS = Lack("its API has no streams")
CLIENT = Client(
    "Tabby's agent",
    partial(node.version, "tabby-agent"),
    completes,
    infills,
    _NO_STREAMS,
    cancels,
    errors,
    node.missing,
)
