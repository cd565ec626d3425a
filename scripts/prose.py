"""Checks the prose of the documents: the length of sentences and the words of docs/style.md.

    python scripts/prose.py README.md docs/*.md

Prints a line for each fault, as FILE:LINE, and exits with 1 if there is one. Code, links'
addresses and quoted messages are not prose. Tables count: a cell is a sentence or several.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

MOST_WORDS = 35
ENDS = re.compile(r"(?<=[.!?])[)\"*]*\s+")
NOTE = re.compile(r"^\[\^\w+\]: (?=[^\n]*$)", re.MULTILINE)
WORDS = {
    r"\bwants?\b": "say what it needs or takes",
    r"\bsimply\b|\bjust\b|\bobviously\b|\bof course\b": "leave it out",
    r"\beasy\b|\beasily\b": "say what the reader does",
    r"\bplease\b": "leave it out",
    r"\bin order to\b": "to",
    r"\butili[sz]e": "use",
    r"\be\.g\.|\bi\.e\.": "say for example, or that is",
    r"\bright now\b|\bcurrently\b|\bat the moment\b": "name the version, or leave it out",
}
"""What docs/style.md rules out, and what stands in its place."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A place in a document and what is wrong there; lines count from 1."""

    path: Path
    line: int
    told: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.told}"


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """Line, from 1, and text of every sentence of a Markdown document."""
    parser = MarkdownIt("commonmark").enable("table")
    text = NOTE.sub("- ", text)  # a note is an item
    line = 0
    for token in parser.parse(text):
        line = token.map[0] + 1 if token.map else line
        if token.type == "inline":
            for sentence in ENDS.split(_words(token)):
                yield line, sentence


def faults(path: Path) -> list[Fault]:
    """What is wrong with the prose of a document."""
    found = []
    for line, sentence in sentences(path.read_text(encoding="utf-8")):
        count = len(sentence.split())
        if count > MOST_WORDS:
            start = " ".join(sentence.split()[:8])
            told = f"a sentence of {count} words, at most {MOST_WORDS}: {start} ..."
            found.append(Fault(path, line, told))
        for pattern, remedy in WORDS.items():
            if match := re.search(pattern, sentence, re.IGNORECASE):
                found.append(Fault(path, line, f'"{match[0]}" in prose: {remedy}'))
    return found


def _words(inline: Token) -> str:
    """The words of a paragraph, a heading, an item or a cell; code is one word."""
    parts = []
    for child in inline.children or []:
        if child.type in ("softbreak", "hardbreak"):
            parts.append(" ")
        elif child.type == "code_inline":
            parts.append("`code`")
        elif child.type == "text":
            parts.append(child.content)
    return "".join(parts)


def main(paths: Sequence[str]) -> int:
    """Check these documents; the exit status."""
    found = [fault for path in paths for fault in faults(Path(path))]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
