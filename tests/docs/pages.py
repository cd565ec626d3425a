"""The code that stands in the README and in the documents."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


@dataclass(frozen=True, slots=True)
class Block:
    """Fenced code: ``language`` is empty for commands that run, ``sh`` for those that cannot."""

    language: str
    code: str

    @property
    def commands(self) -> list[str]:
        """Its lines, with continued ones joined."""
        joined = self.code.replace("\\\n", " ").splitlines()
        return [line for line in joined if line.strip() and not line.startswith("#")]


def blocks(page: Path) -> list[Block]:
    """Every block of a page, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    return [Block(language, code) for language, code in found]


def commands_of_ours(page: Path) -> Iterator[list[str]]:
    """The words after ``sc2onnx`` of each command of a page, comments and pipes left out."""
    for block in blocks(page):
        if block.language in ("", "sh"):
            for line in block.commands:
                if ours := re.match(r"(?:cat \S+ \| )?sc2onnx (.*)", line):
                    yield shlex.split(ours[1], comments=True)
