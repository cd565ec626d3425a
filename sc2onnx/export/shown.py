"""What strangers wrote, as it may stand in a message: short, on one line, and printable."""

from __future__ import annotations

from reprlib import Repr
from typing import Any, Final

_LONGEST_NAME: Final = 100

_REPR: Final = Repr()
_REPR.maxstring = _REPR.maxother = 80
_REPR.maxlong = 40
_REPR.maxlevel = 3


def brief(value: Any) -> str:
    """A value of JSON in Python's notation, its long parts cut in the middle (``...``)."""
    return _REPR.repr(value)


def name_of(name: str) -> str:
    """A name without quotes where that is safe and short, else as :func:`brief` shows it."""
    return name if name.isprintable() and 0 < len(name) <= _LONGEST_NAME else brief(name)
