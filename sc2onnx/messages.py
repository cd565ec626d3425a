"""Messages for a person: no name or text of a stranger in them can steer a terminal.

Every message of ours goes through :func:`tell`, and every line of a result through
:func:`sc2onnx.cli.terminal.say`. The text that a model writes is the product: it goes out as it is,
except to a terminal (:class:`sc2onnx.cli.terminal.TerminalText`).
"""

from __future__ import annotations

import os
import sys
import unicodedata
from contextlib import suppress
from typing import Final, TextIO

_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of Unicode: control and format characters, halves of pairs, separators of lines and
paragraphs."""

_JOINERS: Final = "\u200c\u200d"
"""Format characters that words of some languages are written with; they move nothing."""


def printable(text: str) -> str:
    r"""Return the text on one line, with characters that would steer a terminal escaped.

    They are shown as Python writes them: ``\x1b``, ``\u202e``. They are control characters, line
    ends and tabs included, overrides of the direction of text, and bytes of file names that are
    not UTF-8.
    """
    return text if text.isprintable() else "".join(map(harmless, text))


def harmless(character: str) -> str:
    r"""Return a character, or if it would steer a terminal as Python writes it: ``\x1b``."""
    hidden = unicodedata.category(character) in _HIDDEN and character not in _JOINERS
    return character.encode("unicode_escape").decode() if hidden else character


def duration(seconds: float) -> str:
    """Return a time that is known roughly, as a person says it: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def left(seconds: float, done: float, total: float) -> str:
    """Say how long the rest of some work takes if it goes on as fast: ``, about 12 min left``.

    ``done`` of ``total`` took ``seconds``. Empty where nothing is done yet, or nothing is left.
    """
    if not 0 < done < total:
        return ""
    return f", about {duration(seconds / done * (total - done))} left"


def tell(line: str, stream: TextIO | None = None) -> None:
    """Print a message on standard error, or another stream.

    A stream that takes nothing ends no work: it is given up.
    """
    stream = stream or sys.stderr
    if stream is None:  # pythonw has none
        return
    try:
        print(printable(line), file=stream, flush=True)
    except (OSError, ValueError):  # ValueError: it is closed
        discard(stream)


def discard(stream: TextIO) -> None:
    """Send the buffered text, and all that follows, nowhere: Python would write it at exit."""
    with suppress(OSError, ValueError):  # it has no descriptor, or none is left
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, stream.fileno())
        os.close(sink)
