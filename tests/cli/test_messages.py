"""Names and texts of strangers on a terminal, and streams that take nothing."""

from __future__ import annotations

import io
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sc2onnx.cli.terminal import TerminalText, say
from sc2onnx.messages import printable, tell


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 日本 🙂", "plain é 日本 🙂"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\x9b31m\x85\x7f", r"\x9b31m\x85\x7f"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),
        ("a\u2028b\u2029\ufeff\u200e", r"a\u2028b\u2029\ufeff\u200e"),
        ("b\udce9", r"b\udce9"),
        ("\U000e0041", r"\U000e0041"),
        ("a\u200cb\u200dc", "a\u200cb\u200dc"),
    ],
)
def test_what_would_steer_a_terminal_is_shown_as_python_writes_it(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.lists(st.text(), max_size=6))
def test_generated_text_reaches_a_terminal_whole_and_harmless(pieces: list[str]) -> None:
    screen = TerminalText()
    shown = "".join(map(screen.push, pieces)) + screen.flush()
    rest = shown.replace("\r\n", "").replace("\n", "").replace("\t", "")
    assert not any(
        unicodedata.category(c) in ("Cc", "Cs") or "\u202a" <= c <= "\u202e" for c in rest
    )
    whole = TerminalText()
    assert shown == whole.push("".join(pieces)) + whole.flush()


def test_a_line_end_may_come_in_two_pieces_and_a_lone_return_overwrites_nothing() -> None:
    screen = TerminalText()
    assert (
        screen.push("rm -rf /\r") + screen.push("\nok\r") + screen.push("ls")
        == "rm -rf /\r\nok\\rls"
    )
    assert screen.push("\r") + screen.flush() == "\\r"


class _Full(io.StringIO):
    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


def test_a_stream_that_takes_nothing_ends_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    tell("progress", _Full(OSError(28, "No space left on device")))
    monkeypatch.setattr(sys, "stdout", _Full(BrokenPipeError()))
    say("result")
    monkeypatch.setattr(sys, "stdout", _Full(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        say("result")
    monkeypatch.setattr(sys, "stderr", None)
    tell("nowhere")
