"""Virtual time: what happens next."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush


class Clock:
    """Calls what is due in the order of time; what is due at once, in the order in which it was
    asked for. ``now``: seconds since the beginning.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Have something called so many seconds from now."""
        self._count += 1
        heappush(self._due, (self.now + seconds, self._count, call))

    def run(self, until: float) -> None:
        """Go on to that second."""
        due = self._due
        while due and due[0][0] <= until:
            self.now, _, call = heappop(due)
            call()
        self.now = until
