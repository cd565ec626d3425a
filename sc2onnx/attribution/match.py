"""What a text repeats, as a caller has it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Source:
    """A place that a text repeats: the ``file``, and its lines from ``line`` to ``end_line``, from
    1.

    ``licence``: what the file itself declares (``SPDX-License-Identifier``). ``licence_file``: the
    path of the nearest file above it that is a licence. Each is None where there is none.
    """

    file: str
    line: int
    end_line: int
    licence: str | None = None
    licence_file: str | None = None

    @property
    def told(self) -> str:
        """The place, in words: ``src/a.py, lines 3-9 (licence: src/LICENSE)``."""
        licence = self.licence or self.licence_file
        lines = f"line {self.line}" if self.line == self.end_line else f"lines {self._lines}"
        return f"{self.file}, {lines}" + (f" (licence: {licence})" if licence else "")

    @property
    def _lines(self) -> str:
        return f"{self.line}-{self.end_line}"


@dataclass(frozen=True, slots=True)
class Match:
    """A stretch of a text that stands in indexed files as well: the characters from ``begin`` to
    ``end``, ``length`` lexemes (words, numbers and symbols).

    ``places``: how many there are, as far as they were counted; ``sources``: the first of them.
    """

    begin: int
    end: int
    length: int
    places: int
    sources: tuple[Source, ...]

    @property
    def file(self) -> str:
        """The path of the first source."""
        return self.sources[0].file

    @property
    def line(self) -> int:
        """The line that the first source begins in, from 1."""
        return self.sources[0].line

    @property
    def told(self) -> str:
        """All of it, in words, on one line."""
        others = self.places - len(self.sources)
        places = "; ".join(source.told for source in self.sources)
        more = f"; and {others} more" if others else ""
        span = f"characters {self.begin}-{self.end} ({self.length} words and symbols)"
        return f"{span} repeat {places}{more}"

    def as_json(self, offset: int = 0) -> dict[str, Any]:
        """A value for JSON; ``offset`` is added to ``begin`` and ``end``."""
        return {**asdict(self), "begin": self.begin + offset, "end": self.end + offset}
