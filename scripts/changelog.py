"""The sections of CHANGELOG.md, and the notes of a release made from one of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

UNRELEASED = "Unreleased"
KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


@dataclass(frozen=True, slots=True)
class Section:
    """What a version changed. ``date`` is "Unreleased" or a day such as "2026-01-31"."""

    version: str
    date: str
    text: str

    @property
    def day(self) -> date | None:
        """The day of the release; None before there is one."""
        return None if self.date == UNRELEASED else date.fromisoformat(self.date)

    @property
    def seconds(self) -> int | None:
        """The day's beginning in UTC, in seconds since 1970, for reproducible archives."""
        if self.day is None:
            return None
        return int(datetime(self.day.year, self.day.month, self.day.day, tzinfo=UTC).timestamp())


def sections(text: str) -> list[Section]:
    """Every section of a changelog, the newest first.

    Raises :class:`ValueError` for a heading of the second level that is not
    ``## [1.2.3] - 2026-01-31`` or ``## [1.2.3] - Unreleased``.
    """
    parts = re.split(r"(?m)^## (.*)\n", text)
    return [_section(*pair) for pair in zip(parts[1::2], parts[2::2], strict=True)]


def _section(heading: str, text: str) -> Section:
    found = re.fullmatch(rf"\[(\d+\.\d+\.\d+)\] - (\d{{4}}-\d\d-\d\d|{UNRELEASED})", heading)
    if found is None:
        expected = "'[1.2.3] - 2026-01-31' or '[1.2.3] - Unreleased'"
        raise ValueError(f"CHANGELOG.md has the heading {heading!r}, expected {expected}")
    return Section(found[1], found[2], text.strip())


def kinds(section: Section) -> list[str]:
    """The headings of a section, such as "Added", in their order."""
    return re.findall(r"(?m)^### (.*)$", section.text)


def notes(section: Section, introduction: Path) -> str:
    """Release notes: the introduction that was written for them, and what changed."""
    said = introduction.read_text(encoding="utf-8").strip()
    return f"{said}\n\n## Changes\n\n{section.text}\n"
