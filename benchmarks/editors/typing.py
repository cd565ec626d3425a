"""Editors whose every key is answered to its end: whether it met its
cache, and how soon it began.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

from editors.keystrokes import File, Kind, keystrokes
from editors.servers import body

TYPED = "    total = sum(row.length for row in self.rows)\n    return total\n"
MET = 0.9
"""The part of a prompt that was computed before, from which on a key has met its cache."""


@dataclass(frozen=True, slots=True)
class Key:
    """What became of a key: when it was pressed and answered (seconds of :func:`time.monotonic`),
    seconds to the first token, the part of its prompt that was reused, and what went wrong.
    """

    kind: Kind
    began: float
    ended: float
    first: float | None = None
    reused: float = 0.0
    wrong: str | None = None

    @property
    def met(self) -> bool:
        """Whether it met its cache."""
        return self.reused >= MET


@dataclass
class Typist:
    """Somebody with a file, whose pauses are ``slower`` times as long as the trace says."""

    number: int
    file: File
    slower: float
    keys: list[Key] = field(default_factory=list)

    async def type(self, client: httpx.AsyncClient, count: int, tokens: int) -> None:
        """Press so many keys, the first of which opens the file."""
        strokes = [*keystrokes([self.file], TYPED, count, seed=self.number)]
        for stroke in strokes:
            await asyncio.sleep(self.slower * stroke.pause)
            self.keys.append(await pressed(client, stroke.file, stroke.kind, tokens))
            self.file = stroke.file


async def pressed(client: httpx.AsyncClient, file: File, kind: Kind, tokens: int) -> Key:
    """Ask for what follows a key, and read the answer to its end."""
    began, first, last = time.monotonic(), None, dict[str, object]()
    try:
        async with client.stream("POST", "/infill", json=body(file, tokens)) as reply:
            if reply.status_code != 200:
                return Key(kind, began, time.monotonic(), wrong=str(reply.status_code))
            async for line in reply.aiter_lines():
                if line.startswith("data: "):
                    first = time.monotonic() - began if first is None else first
                    last = json.loads(line.removeprefix("data: "))
    except httpx.TransportError as gone:
        return Key(kind, began, time.monotonic(), first, wrong=type(gone).__name__)
    if "timings" not in last:
        told = "an error ended it" if "error" in last else "its end is missing"
        return Key(kind, began, time.monotonic(), first, wrong=told)
    timings = last["timings"]
    assert isinstance(timings, dict)
    reused = timings["cache_n"] / max(1, timings["cache_n"] + timings["prompt_n"])
    return Key(kind, began, time.monotonic(), first, reused)


async def together(url: str, typists: Sequence[Typist], count: int, tokens: int) -> None:
    """All of them type."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        await asyncio.gather(*(each.type(client, count, tokens) for each in typists))
