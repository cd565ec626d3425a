"""What goes to standard output: lines and tables of results, and the text that a model writes.

Tables are plain text; on a terminal, where rich is installed, they are folded to its width and
coloured, unless ``NO_COLOR`` is in the environment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Final, TextIO

from sc2onnx.messages import discard, harmless, printable
from sc2onnx.tables import Cells, aligned


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person watches a stream, on a terminal that can move its cursor."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def say(line: str) -> None:
    """Print a line of a result on standard output.

    A reader that has left misses the rest, and the exit status stays as it is. Raises
    :class:`OSError` where the line cannot be written for another reason.
    """
    try:
        print(printable(line), flush=True)
    except BrokenPipeError:
        discard(sys.stdout)


def say_all(lines: Iterable[str]) -> None:
    """Print lines of a result one after the other, as :func:`say` does."""
    for line in lines:
        say(line)


_COLOURS: Final[Mapping[str, str]] = {
    "ok": "green",
    "MISSING": "bold red",
    "passed": "green",
    "FAILED": "bold red",
}
"""Cells that begin with one of these words are coloured."""


def say_table(rows: Cells) -> None:
    """Print rows of a table, whose columns are aligned on the left, on standard output."""
    if not is_terminal(sys.stdout):
        say_all(aligned(rows))
        return
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ModuleNotFoundError:
        say_all(aligned(rows))
        return
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for column in range(len(rows[0])):
        table.add_column(no_wrap=column < len(rows[0]) - 1)  # details are folded, names are not
    for row in rows:
        words = (cell.partition(",")[0].strip() for cell in row)
        cells = zip(row, words, strict=True)
        table.add_row(*(Text(printable(cell), _COLOURS.get(word, "")) for cell, word in cells))
    Console(highlight=False).print(table)


def write_generated(text: str, screen: TerminalText | None) -> None:
    """Write generated text as it is, or what of it may reach a terminal."""
    print(text if screen is None else screen.push(text), end="", flush=True)


class TerminalText:
    r"""Generated text, made harmless for a terminal piece by piece.

    Escaped is what :func:`~sc2onnx.messages.printable` escapes, except ``\n``, ``\t`` and ``\r\n``.
    A lone ``\r`` would let a line of code be overwritten with another one before it is read.
    """

    def __init__(self) -> None:
        self._held = ""

    def push(self, text: str) -> str:
        r"""Return what can be shown so far; a ``\r`` at the end waits for what follows it."""
        text = self._held + text
        self._held = "\r" if text.endswith("\r") else ""
        return self._safe(text.removesuffix("\r"))

    def flush(self) -> str:
        r"""Return what is left when nothing follows."""
        held, self._held = self._held, ""
        return self._safe(held)

    @staticmethod
    def _safe(text: str) -> str:
        lines = text.split("\r\n")
        return "\r\n".join("".join(map(_shown, line)) for line in lines)


def _shown(character: str) -> str:
    return character if character in "\n\t" else harmless(character)
