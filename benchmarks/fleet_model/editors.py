"""What people do in their editors: keys with pauses, moves of the cursor, switches of files."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import count
from typing import Literal

from fleet_model.row import Ask
from fleet_model.store import Text

Kind = Literal["type", "move", "switch"]


@dataclass(frozen=True, slots=True)
class Habits:
    """Of those who type.

    ``keys``: of a burst, in the mean; ``think``: seconds between bursts, half to one and a half
    times that; ``key_seconds``: pause before a key, and ``pause_seconds`` on top of it before a
    share ``pauses`` of them; ``moves``: share of the keys that move the cursor, after
    ``pause_seconds``; ``files``: that are open; ``switches``: share of the bursts that begin in
    another of them, ``opens``: in one that was not open. ``tokens``: of a file, half to one and a
    half times that where ``even`` is not set; ``changed``: last tokens of a prompt that a key
    changes; ``wanted``: tokens of a completion. ``debounce``: seconds without a key before an
    editor asks. ``waits``: whether nobody types before the completion is there.
    """

    keys: float = 12
    think: float = 30.0
    key_seconds: tuple[float, float] = (0.08, 0.25)
    pauses: float = 0.1
    pause_seconds: tuple[float, float] = (0.5, 2.0)
    moves: float = 0.04
    files: int = 3
    switches: float = 0.15
    opens: float = 0.05
    tokens: int = 2000
    even: bool = False
    changed: tuple[int, int] = (1, 1)
    wanted: tuple[int, int] = (8, 24)
    debounce: float = 0.0
    waits: bool = False


@dataclass(slots=True)
class File:
    """An open file: its number, keys and tokens, and how often the cursor was moved."""

    number: int
    keys: tuple[int, ...]
    tokens: int
    place: int = 0


class Editor:
    """Somebody who types."""

    def __init__(self, habits: Habits, chance: random.Random, numbers: count[int]) -> None:
        self._habits, self._chance, self._numbers = habits, chance, numbers
        self.files = [self._opened() for _ in range(habits.files)]
        self._file = self.files[0]

    def _opened(self) -> File:
        keys = tuple(self._chance.getrandbits(64) for _ in range(4))
        tokens = self._habits.tokens
        if not self._habits.even:
            tokens = self._chance.randint(tokens // 2, 3 * tokens // 2)
        return File(next(self._numbers), keys, tokens)

    def begins(self) -> float:
        """Seconds until the first key: editors are anywhere between two bursts."""
        return self._chance.uniform(0, self._habits.think)

    def next(self) -> tuple[float, Kind]:
        """Seconds until the next key, and what it does."""
        habits, chance = self._habits, self._chance
        if chance.random() < 1 / habits.keys:
            return chance.uniform(0.5, 1.5) * habits.think, self._between()
        if chance.random() < habits.moves:
            return chance.uniform(*habits.pause_seconds), "move"
        pause = chance.uniform(*habits.key_seconds)
        if chance.random() < habits.pauses:
            pause += chance.uniform(*habits.pause_seconds)
        return pause, "type"

    def _between(self) -> Kind:
        """Where a burst begins."""
        drawn = self._chance.random()
        if drawn < self._habits.opens + self._habits.switches:
            return "switch"
        return "move" if self._chance.random() < self._habits.moves else "type"

    def pressed(self, kind: Kind) -> Ask:
        """What the key asks for."""
        if kind == "switch":
            self._switch()
        elif kind == "move":
            self._file.place += 1
        file, chance = self._file, self._chance
        changed, wanted = self._habits.changed, self._habits.wanted
        text = Text(file.number, file.place)
        return Ask(text, file.tokens, chance.randint(*changed), chance.randint(*wanted), file.keys)

    def _switch(self) -> None:
        """Go to another file: one that was not open in its part of the switches."""
        habits, place = self._habits, self.files.index(self._file)
        if self._chance.random() < habits.opens / (habits.opens + habits.switches):
            self.files[place] = self._file = self._opened()
        elif len(self.files) > 1:
            others = [each for each in self.files if each is not self._file]
            self._file = self._chance.choice(others)
