"""``sc2onnx chat``: on a terminal, with what is piped in, and what ends it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sc2onnx
from sc2onnx.cli.chatting import HELP
from sc2onnx.cli.dialogue import Dialogue
from tests.instruct import instruct, said

pytest.importorskip("jinja2", reason="needs the chat extra")

OPTIONS: dict[str, Any] = {"max_new_tokens": 8}


@pytest.fixture(scope="module")
def chatting(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return instruct(bundle, tmp_path_factory.mktemp("instruct") / "bundle")


@pytest.fixture(scope="module")
def model(chatting: Path) -> Iterator[sc2onnx.Model]:
    loaded = sc2onnx.load(chatting)
    loaded.start()
    yield loaded
    loaded.stop()
    loaded.chats.renderer.close()


def chat(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "sc2onnx", "chat", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)


def test_what_is_piped_in_is_one_message_or_one_a_line(
    chatting: Path, model: sc2onnx.Model
) -> None:
    how = ("--max-new-tokens", "8", "--system", "Be short.")
    one = model.chat(said("def f(x):\n    y\n", system="Be short."), max_new_tokens=8)
    for arguments, stdin in (((), b"def f(x):\n    y\n"), (("def f(x):\n    y\n",), b"")):
        assert chat(chatting, *arguments, *how, stdin=stdin).stdout.decode() == f"{one.text}\n"
    done = chat(chatting, "--lines", "--json", *how, stdin=b"def f(x):\r\n\n    y\n")
    first, second = json.loads(done.stdout)
    asked = said("def f(x):", system="Be short.")
    assert first["text"] == model.chat(asked, max_new_tokens=8).text
    asked = said("def f(x):", first["text"], "    y", system="Be short.")
    assert second["text"] == model.chat(asked, max_new_tokens=8).text
    assert (second["finish_reason"], len(second["tokens"])) == ("length", 8)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("INSTRUCT", "hi", "--template", "rag"), "template is 'rag', expected one of: default"),
        (("INSTRUCT", "hi", "--lines"), "--lines is for messages that are piped in"),
        (("BASE", "hi"), "does not chat, as a base model: use generate or infill"),
        (("INSTRUCT", "x = 1\n" * 4000), "the model's context holds"),
    ],
)
def test_mistakes_are_one_line(
    arguments: tuple[str, ...], told: str, bundle: Path, chatting: Path
) -> None:
    where = {"INSTRUCT": chatting, "BASE": bundle}
    done = chat(*(where.get(word, word) for word in arguments))
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    assert told in done.stderr.decode()


def test_an_interrupt_ends_the_answer_and_keeps_the_conversation(model: sc2onnx.Model) -> None:
    dialogue, pieces = Dialogue(model, None, {"max_new_tokens": 1500}), list[str]()

    def write(text: str) -> None:
        pieces.append(text)
        if len(pieces) == 3:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    answer = dialogue.answer("import os", write)
    assert signal.getsignal(signal.SIGINT) is before
    assert answer["finish_reason"] == "cancelled"
    assert dialogue.turns == [("import os", "".join(pieces))]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_turns_that_no_longer_fit_are_left_out(
    model: sc2onnx.Model, capsys: pytest.CaptureFixture[str]
) -> None:
    dialogue = Dialogue(model, "Be short.", OPTIONS)
    dialogue.turns = [("x = 1\n" * 150, "yes")] * 3
    dialogue.answer("And y?", lambda text: None)
    assert "its first turn is left out" in capsys.readouterr().err
    assert [len(question) for question, _ in dialogue.turns] == [900, 900, 6]
    with pytest.raises(sc2onnx.ContextLengthError):
        dialogue.answer("x = 1\n" * 2000, lambda text: None)
    assert dialogue.system == "Be short."


def test_a_question_that_is_refused_is_forgotten(model: sc2onnx.Model) -> None:
    dialogue = Dialogue(model, None, OPTIONS)
    dialogue.answer("one", lambda text: None)
    with pytest.raises(sc2onnx.RequestError):
        dialogue.answer("\ud800", lambda text: None)
    assert [question for question, _ in dialogue.turns] == ["one"]


class Terminal:
    """The command on a terminal."""

    def __init__(self, *arguments: str | Path) -> None:
        self._leader, follower = pty.openpty()
        command = [sys.executable, "-m", "sc2onnx", "chat", *map(str, arguments)]
        self.process = subprocess.Popen(
            command,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
            env={**os.environ, "TERM": "dumb"},
        )
        os.close(follower)
        self._seen = b""

    def until(self, pattern: bytes) -> bytes:
        """What is shown up to a pattern."""
        ends = time.monotonic() + 60
        while not (found := re.search(pattern, self._seen, re.DOTALL)):
            ready, _, _ = select.select([self._leader], [], [], ends - time.monotonic())
            assert ready, self._seen
            self._seen += os.read(self._leader, 65536)
        shown, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return shown

    def types(self, text: str) -> None:
        os.write(self._leader, text.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._leader)


def test_a_person_talks_stops_and_ends(chatting: Path) -> None:
    terminal = Terminal(chatting, "--max-new-tokens", "1900")
    try:
        terminal.until(b"Ctrl-D ends.*> ")
        terminal.types("/help\n")
        assert b"Ctrl-C      stop the answer" in terminal.until(b"/help +this.*> ")
        terminal.types("import os\n")
        terminal.until(b"import os\r\n.{40}")
        os.kill(terminal.process.pid, signal.SIGINT)
        terminal.until(b"\r\n> ")
        terminal.types('"""def f():\n    return 1"""\n')
        terminal.until(b'return 1"""\r\n.{20}')
        os.kill(terminal.process.pid, signal.SIGINT)
        terminal.until(b"\r\n> ")
        terminal.types("not sent")
        terminal.until(b"not sent")
        time.sleep(0.2)  # readline waits for the next key
        os.kill(terminal.process.pid, signal.SIGINT)
        terminal.until(b"\r\n> ")
        terminal.types("\x04")
        assert terminal.process.wait(30) == 0
    finally:
        terminal.close()
    assert "/reset" in HELP
