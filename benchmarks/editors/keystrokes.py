"""What somebody types: characters, deletions, moves of the cursor and switches of files."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["type", "delete", "move", "switch"]


@dataclass(frozen=True, slots=True)
class File:
    """A file with a cursor in it."""

    path: str
    before: str
    after: str

    @classmethod
    def opened(cls, path: str, text: str, part: float) -> File:
        """A file with the cursor at the end of the line that is this ``part`` into it."""
        place = text.find("\n", int(part * len(text)))
        return cls(path, text[:place], text[place:])

    def typed(self, character: str) -> File:
        """After a key."""
        return replace(self, before=self.before + character)

    def deleted(self) -> File:
        """After backspace."""
        return replace(self, before=self.before[:-1])

    def moved(self, lines: int) -> File:
        """With the cursor at the end of another line, so many down or, below 0, up."""
        text, place = self.before + self.after, len(self.before)
        for _ in range(abs(lines)):
            found = text.find("\n", place + 1) if lines > 0 else text.rfind("\n", 1, place - 1)
            place = place if found < 0 else found
        return replace(self, before=text[:place], after=text[place:])


@dataclass(frozen=True, slots=True)
class Keystroke:
    """A change, the file after it, and the seconds before it."""

    kind: Kind
    file: File
    pause: float


def keystrokes(files: Sequence[File], words: str, count: int, seed: int) -> Iterator[Keystroke]:
    """So many changes: mostly characters of ``words``, now and then a deletion of one to three, or
    a move by some lines; two switches to the next file.
    """
    chance, opened, at, place, deleting = random.Random(seed), list(files), 0, 0, 0
    for number in range(count):
        kind, pause = _kind(chance, deleting), chance.uniform(0.08, 0.25)
        if number in (count // 2, 3 * count // 4):
            kind, at, pause = "switch", (at + 1) % len(opened), chance.uniform(1, 3)
        elif kind == "move":
            opened[at] = opened[at].moved(chance.choice((-1, 1)) * chance.randint(3, 25))
            pause = chance.uniform(0.5, 2)
        elif kind == "delete":
            deleting = deleting - 1 if deleting else chance.randint(0, 2)
            opened[at] = opened[at].deleted()
        else:
            opened[at] = opened[at].typed(words[place % len(words)])
            place += 1
            pause += chance.random() < 0.1 and chance.uniform(0.5, 2)
        yield Keystroke(kind, opened[at], pause)


def _kind(chance: random.Random, deleting: int) -> Kind:
    if deleting:
        return "delete"
    drawn = chance.random()
    return "move" if drawn < 0.04 else "delete" if drawn < 0.08 else "type"
