"""Text of users and strangers: bounded when it is read whole, plain when it is kept."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any, BinaryIO, Final

from sc2onnx.errors import RequestError

MOST_BYTES: Final = 64 << 20
"""Bytes of one file of text: thousands of times what a context holds, hours of calibration."""


def contents(path: Path) -> bytes:
    """Read a file of text. Raises :class:`OSError`, :class:`RequestError` for more than 64 MiB."""
    with path.open("rb") as file:
        return bounded(file, str(path))


def bounded(file: BinaryIO, name: str) -> bytes:
    """Read the rest of a stream of text; ``name`` is what the error calls it.

    Raises :class:`RequestError` for more than 64 MiB.
    """
    data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise RequestError(
            f"{name} has more than {MOST_BYTES:,} bytes, expected text of at most "
            "that: give a part of it"
        )
    return data


def plain_text(text: str) -> str:
    """Return ``text`` with U+FFFD in the place of characters that a terminal or editor acts on.

    Those are control characters, line and paragraph separators, halves of surrogate pairs, and
    characters that turn the direction of writing.
    """
    return "".join("\ufffd" if _acts(character) else character for character in text)


def make_plain(record: Any, *names: str) -> None:
    """Make free text plain in fields of a frozen record, as :func:`plain_text` does."""
    for name in names:
        text = getattr(record, name)
        object.__setattr__(record, name, plain_text(text) if isinstance(text, str) else text)


def _acts(character: str) -> bool:
    return not " " <= character <= "~" and (
        unicodedata.category(character) in _ACTING or character in _TURNING
    )


_ACTING: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_TURNING: Final = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
