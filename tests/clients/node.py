"""Clients for Node.js: each has a script that prints a line of JSON for each ability."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import tests.clients.server
from tests.clients.client import ABILITIES, Ability, Client, Lack
from tests.clients.server import KEY, Server
from tests.clients.whereabouts import HERE, NODE

SCRIPTS: Final = HERE / "node"
_GIVEN: Final = ("url", "model", "chatting", "completion", "infilling", "answer", "seconds")
_CONSTANTS: Final = (
    *("PROMPT", "SUFFIX", "TOKENS", "ENDLESS", "MOST"),
    *("TOO_MANY", "TOO_LONG", "WAITING", "MESSAGES"),
)
NOTHING: Final[Mapping[Ability, Lack]] = {}


def missing() -> str | None:
    if shutil.which("node") is None:
        return "there is no Node.js here"
    return (
        None if (NODE / "node_modules").is_dir() else "its packages are not installed: make clients"
    )


def version(package: str) -> str:
    """The version of a package that is installed."""
    found: dict[str, str] = json.loads(
        (NODE / "node_modules" / package / "package.json").read_text()
    )
    return found["version"]


def environment() -> dict[str, str]:
    """That of Node.js: it reaches this machine only."""
    return {
        **os.environ,
        "NODE_OPTIONS": f"--require {HERE / 'loopback' / 'loopback.cjs'}",
        "NO_COLOR": "1",
    }


@dataclass(slots=True)
class Script:
    """A script, run once for a server: its check of each ability is a line of it."""

    name: str
    told: dict[str, dict[str, Any]] = field(default_factory=dict)

    def check(self, ability: str, server: Server) -> None:
        """See :data:`~tests.clients.client.Check`."""
        if not self.told:
            self.told = self._run(server)
        assert self.told[ability]["why"] is None, self.told[ability]["why"]

    def _run(self, server: Server) -> dict[str, dict[str, Any]]:
        for script in SCRIPTS.glob("*.mjs"):  # modules are looked for beside a script
            shutil.copy(script, NODE)
        given = {"key": KEY, **{name: getattr(server, name) for name in _GIVEN}}
        constants = {name: getattr(tests.clients.server, name) for name in _CONSTANTS}
        command = ["node", str(NODE / f"{self.name}.mjs"), json.dumps(given), json.dumps(constants)]
        done = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        lines = [
            json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"ability"')
        ]
        return {line["ability"]: line for line in lines}


def client(name: str, package: str, script: str, lacks: Mapping[Ability, Lack] = NOTHING) -> Client:
    """A client whose script checks every ability that it does not lack."""
    told = Script(script)
    checks: dict[Ability, Any] = {
        ability: lacks.get(ability, partial(told.check, ability)) for ability in ABILITIES
    }
    return Client(name, partial(version, package), **checks, missing=missing)


_DIALOGUE: Final = Lack(
    "it makes a dialogue of every prompt, so that code does not end where the cursor is"
)

CLIENTS: Final = (
    client("openai (Node.js)", "openai", "openai"),
    client("ollama (Node.js)", "ollama", "ollama"),
    client(
        "@ai-sdk/openai-compatible", "@ai-sdk/openai-compatible", "ai-sdk", {"infills": _DIALOGUE}
    ),
    client("Continue (@continuedev/openai-adapters)", "@continuedev/openai-adapters", "continue"),
)
