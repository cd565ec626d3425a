"""What is told of long work, and tables, on terminals of all kinds and elsewhere."""

from __future__ import annotations

import io
import re
import sys
import time

import pytest

from sc2onnx.cli import progress as module
from sc2onnx.cli import terminal
from sc2onnx.cli.progress import Progress, progress, waiting
from sc2onnx.evaluate.progress import Progress as Measured
from sc2onnx.messages import duration, left

ROWS = [("ok", "cpu", "works, " + "x" * 60), ("MISSING", "numpy", "not installed \x1b[2J")]


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def watched(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Put a terminal of 40 columns in the place of standard error and output."""
    made = Screen()
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setattr(sys, "stdout", made)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return made


def test_on_a_terminal_a_line_takes_the_place_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = watched(monkeypatch)
    with progress() as shown:
        shown("1 of 2")
        shown("2 of 2\n" + "x" * 99)
        shown.keep("a row")
        shown("rest")
    lines = screen.getvalue().split("\r\x1b[K")
    assert lines == ["", "1 of 2", "2 of 2\\n" + "x" * 31, "a row\n", "rest", ""]


def test_elsewhere_each_line_is_its_own(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress() as shown, waiting("loading"):
        shown("1 of 2")
        shown.keep("a row")
    assert capsys.readouterr().err == "1 of 2\na row\n"
    with progress(quiet=True) as shown:
        shown("1 of 2")
        shown.keep("a row")
    assert capsys.readouterr().err == ""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "dumb")
    Progress()("1 of 2")
    assert screen.getvalue() == "1 of 2\n"


def test_a_long_step_is_told_of_from_its_third_second_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = watched(monkeypatch)
    monkeypatch.setattr(module, "ON_TERMINAL", 0.01)
    with waiting("loading b"):
        time.sleep(0.1)
    assert screen.getvalue() == ""
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    reads = iter(range(0, 10**15, 10**12))
    monkeypatch.setattr(module, "_bytes_read", lambda: next(reads))
    with waiting("loading b", size=10**15) as end:
        while screen.getvalue().count("loading") < 2:
            time.sleep(0.01)
        end()
        before = screen.getvalue()
        time.sleep(0.05)
    assert screen.getvalue() == before
    assert re.search(r"loading b: 0 s, about \d+ s left\r\x1b\[K$", before)


def test_a_step_that_does_not_consist_of_reading_gets_no_estimate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = watched(monkeypatch)
    monkeypatch.setattr(module, "ON_TERMINAL", 0.01)
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    monkeypatch.setattr(module, "_bytes_read", lambda: 10)
    with waiting("loading b", size=10**9):
        while "loading" not in screen.getvalue():
            time.sleep(0.01)
    assert "left" not in screen.getvalue()


def test_an_estimate_goes_on_as_fast_as_it_went() -> None:
    assert left(10, 1, 5) == ", about 40 s left"
    assert left(60, 1, 21) == ", about 20 min left"
    assert left(3600, 1, 4.5) == ", about 3.5 h left"
    assert [left(10, 0, 5), left(10, 5, 5), left(10, 6, 5)] == ["", "", ""]
    assert duration(89) == "89 s"


def test_a_measurement_tells_how_long_it_takes_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = [0.0], list[str]()
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    measured = Measured(told.append, "mini", 100, "positions", every=5)
    for second in range(1, 11):
        now[0] = second
        measured.advance(10)
    assert told == [
        "mini: 50 of 100 positions, 5 s, about 5 s left",
        "mini: 100 of 100 positions, 10 s",
    ]


def test_an_export_into_a_pipe_tells_how_long_it_takes_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exporting = pytest.importorskip("sc2onnx.export.progress")
    now, out = [0.0], io.StringIO()
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    lines = exporting.Lines(out, every=30)
    lines.stage("writing", 4_000_000_000)
    for second in range(10, 50, 10):
        now[0] = second
        lines.advance(1_000_000_000)
    assert out.getvalue() == "writing (4.000 GB)\nwriting: 75%, about 10 s left\n"


def test_a_table_is_folded_and_coloured_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("rich")
    screen = watched(monkeypatch)
    terminal.say_table(ROWS)
    told = screen.getvalue()
    assert "\x1b[32mok" in told
    assert "\\x1b[2J" in told
    assert "\x1b[2J" not in told
    plain = re.sub(r"\x1b\[[\d;]*m", "", told)
    assert max(map(len, plain.splitlines())) <= 40
    assert len(plain.splitlines()) > len(ROWS)


def test_no_color_and_no_rich_and_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    screen = watched(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.say_table(ROWS)
    assert "\x1b[32m" not in screen.getvalue()
    aligned = "ok       cpu    works, " + "x" * 60 + "\n"
    for name in ("rich", "rich.console"):
        monkeypatch.setitem(sys.modules, name, None)
    screen.truncate(0)
    screen.seek(0)
    terminal.say_table(ROWS)
    assert screen.getvalue().startswith(aligned)
    piped = io.StringIO()
    monkeypatch.setattr(sys, "stdout", piped)
    terminal.say_table(ROWS)
    assert piped.getvalue().startswith(aligned)
