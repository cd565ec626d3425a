"""llama.vim: its requests, sent from Vim by curl as it sends them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.clients.client import Client, Lack
from tests.clients.server import ENDLESS, KEY, MOST, PROMPT, SUFFIX, WAITING, Server
from tests.clients.whereabouts import HERE

_TIMINGS: Final = ("prompt_n", "prompt_ms", "predicted_n", "predicted_ms")
_FIELDS: Final = (
    "content",
    "truncated",
    "tokens_cached",
    *(f"timings/{name}" for name in _TIMINGS),
)


@dataclass(frozen=True, slots=True)
class Ask:
    """``gives_up``: milliseconds until somebody types on, 0 for never. ``warms``: as it says."""

    prefix: str = PROMPT[: PROMPT.rindex("\n") + 1]
    prompt: str = PROMPT[PROMPT.rindex("\n") + 1 :]
    suffix: str = SUFFIX
    n_predict: int = 128
    warms: bool = False
    gives_up: int = 0


def typed(server: Server, ask: Ask, key: str = KEY) -> tuple[str, str | None]:
    """What the server answers, and what Vim shows of it."""
    process, told = begun(server, ask, key)
    assert process.wait(60) == 0
    found: dict[str, Any] = json.loads(told.read_text())
    return found["answer"], found["shown"]


def begun(server: Server, ask: Ask, key: str = KEY) -> tuple[subprocess.Popen[bytes], Path]:
    """Vim, and the file of what it tells when it ends."""
    told = server.scratch() / "told"
    fields = {name: getattr(ask, name) for name in Ask.__slots__}
    given = json.dumps({**fields, "url": server.url, "key": key})
    command = ["vim", "-N", "-es", "-u", "NONE", "-i", "NONE", "-S", str(HERE / "llama_vim.vim")]
    environment = {**os.environ, "SC2ONNX_ASK": given, "SC2ONNX_TOLD": str(told)}
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment
    ), told


def infills(server: Server) -> None:
    answer, shown = typed(server, Ask())
    assert shown
    assert typed(server, Ask())[1] == shown  # it stays the same while somebody types what it says
    assert json.loads(answer).keys() == set(_FIELDS)
    _warms(server)


def _warms(server: Server) -> None:
    """What a background request computed, a later one does not compute again."""
    ask = Ask(prefix="# another file, of some length\n" * 20 + PROMPT + "\n", prompt="    ")
    warm = Ask(ask.prefix, ask.prompt, ask.suffix, warms=True)
    assert typed(server, warm)[0].strip() == "{}"
    assert json.loads(typed(server, ask)[0])["timings/prompt_n"] < 20


def cancels(server: Server) -> None:
    """Somebody types on while a request waits, and another while one is computed."""
    with server.held(4):
        process, _ = begun(server, Ask(gives_up=1500))
        server.busy(5)
        assert process.wait(30) == 0
        server.idle(4)
    process, told = begun(
        server, Ask(prefix=ENDLESS, prompt="", suffix="", n_predict=MOST, gives_up=100)
    )
    assert process.wait(30) == 0
    assert json.loads(told.read_text())["shown"] is None
    server.idle()


def errors(server: Server) -> None:
    """It shows nothing, and goes on."""
    for key, told in (("another-key", "the key is missing or wrong"),):
        answer, shown = typed(server, Ask(), key)
        assert shown is None
        assert told in json.loads(answer)["error"]["message"]
    with server.held(WAITING):
        answer, shown = typed(server, Ask())
        assert shown is None
        assert "as much to do" in json.loads(answer)["error"]["message"]
    assert typed(server, Ask())[1]


def version() -> str:
    """That of Vim: the plugin is none of its own here."""
    told = subprocess.run(["vim", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"Vi IMproved (\S+)", told)
    assert found is not None
    return f"its requests, in Vim {found[1]}"


def missing() -> str | None:
    absent = [name for name in ("vim", "curl") if shutil.which(name) is None]
    if absent:
        return f"there is no {' and no '.join(absent)} here"
    told = subprocess.run(["vim", "--version"], capture_output=True, text=True, check=False).stdout
    return None if "+job" in told and "+eval" in told else "the Vim here is built without jobs"


_ONLY_INFILLS = Lack("it asks for the middle alone, with the rest of the file as suffix")
_NO_STREAMS = Lack("it asks for answers whole")
CLIENT = Client("llama.vim", version, _ONLY_INFILLS, infills, _NO_STREAMS, cancels, errors, missing)
