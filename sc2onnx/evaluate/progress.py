"""Lines that tell how far a long measurement is, not more often than a
person wants to read them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from sc2onnx.messages import left

Tell = Callable[[str], None]

EVERY: Final = 10.0
"""Seconds between two lines, if nothing else is said."""


class Progress:
    """Tells of one stage, how long it takes yet, every few seconds and at its end."""

    def __init__(self, tell: Tell, name: str, total: int, unit: str, every: float = EVERY) -> None:
        self._tell, self._name, self._total, self._unit = tell, name, total, unit
        self._every = every
        self._done, self._began = 0, time.monotonic()
        self._told = self._began

    def advance(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        now = time.monotonic()
        if self._done >= self._total or now - self._told >= self._every:
            self._told = now
            took = now - self._began
            far = f"{self._name}: {self._done:,} of {self._total:,} {self._unit}"
            self._tell(f"{far}, {took:.0f} s{left(took, self._done, self._total)}")
