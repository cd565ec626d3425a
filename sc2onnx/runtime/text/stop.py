"""Stop strings: where a text that comes in pieces ends."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class StopScanner:
    """Holds text back while it may be the beginning of a stop string."""

    stops: tuple[str, ...]
    found: bool = False
    which: str | None = None
    _held: str = field(default="")

    def push(self, text: str) -> str:
        """Text that is certainly before any stop string. After :attr:`found`, nothing more.

        With the stop "def", pushing "a de" gives "a ", and "f b" then gives "" and sets ``found``.
        """
        if self.found:
            return ""
        self._held += text
        starts = [(start, stop) for stop in self.stops if (start := self._held.find(stop)) >= 0]
        if starts:
            self.found = True
            safe, self.which = min(starts)
        else:
            safe = len(self._held) - self._overlap()
        out, self._held = self._held[:safe], self._held[safe:]
        return out

    def flush(self) -> str:
        """What was held back, when nothing follows."""
        out, self._held = "" if self.found else self._held, ""
        return out

    def _overlap(self) -> int:
        """Length of the longest end of the held text that some stop string begins with."""
        longest = max((len(stop) - 1 for stop in self.stops), default=0)
        lengths = range(min(longest, len(self._held)), 0, -1)
        return next(
            (n for n in lengths if any(stop.startswith(self._held[-n:]) for stop in self.stops)), 0
        )
