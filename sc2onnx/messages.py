"""What the command line says to a person: one place, so that no name or text of a stranger can steer a terminal.

Every message of ours goes through :func:`tell` or :func:`say`. The text that a model writes is the product: it goes out
as it is, except to a terminal (:class:`TerminalText`).
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, TextIO

_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of Unicode: control and format characters, halves of pairs, separators of lines and paragraphs."""

_JOINERS: Final = "\u200c\u200d"
"""Format characters that words of some languages are written with; they move nothing."""


def printable(text: str) -> str:
    r"""Return the text on one line, with characters that would steer a terminal as Python writes them: ``\x1b``, ``\u202e``.

    Those are control characters, line ends and tabs included, overrides of the direction of text, and bytes of file names
    that are not UTF-8.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def tell(line: str, stream: TextIO | None = None) -> None:
    """Print a message on standard error, or another stream. A stream that takes nothing ends no work: it is given up."""
    stream = stream or sys.stderr
    if stream is None:  # pythonw has none
        return
    try:
        print(printable(line), file=stream, flush=True)
    except (OSError, ValueError):  # ValueError: it is closed
        discard(stream)


def say(line: str) -> None:
    """Print a line of a result on standard output.

    A reader that has left misses the rest, and the exit status stays what was found out. Raises :class:`OSError` where the
    line cannot be written for another reason.
    """
    try:
        print(printable(line), flush=True)
    except BrokenPipeError:
        discard(sys.stdout)


def discard(stream: TextIO) -> None:
    """Send what is still buffered, and what follows, nowhere: Python would try to write it again at exit."""
    with suppress(OSError, ValueError):  # it has no descriptor, or none is left
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, stream.fileno())
        os.close(sink)


class TerminalText:
    r"""Generated text, made harmless for a terminal piece by piece: what :func:`printable` escapes, except ``\n``, ``\t`` and ``\r\n``.

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
        return "\r\n".join("".join(c if c in "\n\t" else _shown(c) for c in line) for line in lines)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Standard streams that can be written to whatever they are: characters that they lack are shown as others, and none is None."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
        for stream, errors in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors=errors)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def occupy_standard_descriptors() -> None:
    """Open descriptors 0 to 2 that were closed when the process began.

    The next files that it opens would get these numbers otherwise, and what a library prints would be written into them.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # gets the lowest number that is free


def _shown(character: str) -> str:
    hidden = unicodedata.category(character) in _HIDDEN and character not in _JOINERS
    return character.encode("unicode_escape").decode() if hidden else character
