"""Lines that tell how far a long measurement is, not more often than a person wants to read them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

Tell = Callable[[str], None]

_INTERVAL: Final = 10.0  # seconds


class Progress:
    """Tells of one stage: every ten seconds, and at its end."""

    def __init__(self, tell: Tell, name: str, total: int, unit: str) -> None:
        self._tell, self._name, self._total, self._unit = tell, name, total, unit
        self._done, self._began = 0, time.monotonic()
        self._told = self._began

    def advance(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        now = time.monotonic()
        if self._done >= self._total or now - self._told >= _INTERVAL:
            self._told = now
            self._tell(f"{self._name}: {self._done:,} of {self._total:,} {self._unit}, {now - self._began:.0f} s")
