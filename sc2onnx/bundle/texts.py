"""Text of users, read whole and therefore bounded: a device, or the wrong file, fills no memory."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Final

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
        raise RequestError(f"{name} has more than {MOST_BYTES:,} bytes, expected text of at most that: give a part of it")
    return data
