"""What goes to standard output: lines of results, and the text that a model writes."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from sc2onnx.messages import discard, harmless, printable


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
