"""When something first happened to a request, and how long that took."""

from __future__ import annotations

import math
import time
from typing import Literal

Moment = Literal["submit", "enter", "prompt", "end"]
"""It was submitted; it was the first time among those that are computed; its prompt was computed;
it ended.
"""


class Moments:
    """When each :data:`Moment` of a request first came."""

    __slots__ = ("_first",)

    def __init__(self) -> None:
        self._first: dict[Moment, float] = {}

    def mark(self, moment: Moment) -> None:
        """It is now, unless it has been."""
        self._first.setdefault(moment, time.perf_counter())

    @property
    def entered(self) -> bool:
        """Whether the request is, or was, among those that are computed."""
        return "enter" in self._first

    @property
    def writing(self) -> float:
        """Seconds since the prompt was computed; below 0 before that."""
        return time.perf_counter() - self._first.get("prompt", math.inf)

    def spans(self) -> tuple[float, float, float]:
        """Seconds that it waited, computed its prompt, and wrote, so far."""
        end = self._first.get("end", time.perf_counter())
        entered = self._first.get("enter", end)
        computed = self._first.get("prompt", end)
        return entered - self._first.get("submit", entered), computed - entered, end - computed
