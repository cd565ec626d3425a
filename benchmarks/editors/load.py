"""Many editors at one server: whether all are answered, how soon, and what
the server holds meanwhile.

Somebody types some characters, thinks, and types again. Each key ends the request before it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import httpx
import numpy as np

import sc2onnx
from editors.keystrokes import File, keystrokes
from editors.processes import Holds
from editors.servers import Server, body, ours
from editors.table import milliseconds

TOKENS = 16
TYPED = "    total = sum(row.length for row in self.rows)\n    return total\n"


@dataclass
class Editor:
    """One of them: its file, how long it thinks between two bursts (seconds), and what it saw."""

    number: int
    file: File
    think: float
    first: list[float] = field(default_factory=list)
    whole: int = 0
    statuses: Counter[int] = field(default_factory=Counter)

    async def work(self, client: httpx.AsyncClient, until: float) -> None:
        """Type until then."""
        chance = random.Random(self.number)
        await asyncio.sleep(chance.uniform(0, self.think))
        for stroke in keystrokes([self.file], TYPED, 1_000_000, seed=self.number):
            if time.monotonic() >= until:
                return
            asking = asyncio.create_task(self._ask(client, stroke.file))
            more = chance.random() < 1 / 12
            await asyncio.sleep(chance.uniform(0.5, 1.5) * self.think if more else stroke.pause)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _ask(self, client: httpx.AsyncClient, file: File) -> None:
        began, seen = time.perf_counter(), False
        async with client.stream("POST", "/infill", json=body(file, TOKENS)) as reply:
            self.statuses[reply.status_code] += 1
            async for line in reply.aiter_lines():
                if line.startswith("data: ") and not seen:
                    seen = True
                    self.first.append(time.perf_counter() - began)
            self.whole += reply.status_code == 200


def load(bundle: Path, threads: int, count: int, tokens: int, minutes: float, think: float) -> None:
    """Print what editors saw. ``tokens``: of each one's file."""
    codec = sc2onnx.load(bundle, threads=threads).codec
    code = Path(__file__).with_name("keystrokes.py").read_text(encoding="utf-8") * 20
    text = b"".join(map(codec.token_bytes, codec.encode(code, special=False)[:tokens])).decode(
        errors="ignore"
    )
    editors = [
        Editor(each, File.opened(f"{each}.py", f"# file {each}\n{text}", 0.5), think)
        for each in range(count)
    ]
    with ours(bundle, threads) as server:
        held = asyncio.run(_worked(server, editors, minutes))
    _told(editors, held, minutes)


async def _worked(server: Server, editors: list[Editor], minutes: float) -> list[Holds]:
    held, until = list[Holds](), time.monotonic() + 60 * minutes
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:
        working = [asyncio.create_task(editor.work(client, until)) for editor in editors]
        while time.monotonic() < until:
            await asyncio.sleep(5)
            held.append(Holds.of(server.process.pid))
        await asyncio.gather(*working)
    return held


def _told(editors: list[Editor], held: list[Holds], minutes: float) -> None:
    statuses = sum((editor.statuses for editor in editors), Counter[int]())
    first = [seconds for editor in editors for seconds in editor.first]
    keys, whole = statuses.total(), sum(editor.whole for editor in editors)
    print(
        f"{len(editors)} editors, {minutes:g} minutes: {keys} requests, {len(first)} with a first "
        f"token, {whole} to the end"
    )
    print(f"  statuses: {dict(statuses)}")
    print(f"  first token: {milliseconds(first)} ms")
    tails = sorted(1e3 * float(np.percentile(editor.first, 95)) for editor in editors)
    print(
        f"  p95 of each editor: {tails[0]:.0f} the least, {median(tails):.0f} the median, "
        f"{tails[-1]:.0f} ms the most"
    )
    third = len(held) // 3
    middle, end = (
        max(each.memory for each in part) / 1e9
        for part in (held[third : 2 * third], held[2 * third :])
    )
    print(f"  private memory at most: {middle:.2f} GB in the second third, {end:.2f} in the last")
    print(
        f"  threads {held[third].threads} -> {held[-1].threads}, open files at most "
        f"{max(each.files for each in held)}"
    )
