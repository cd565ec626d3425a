"""A server of one model: admits requests, computes steps, keeps caches.

The plan of a step is the engine's own (:func:`sc2onnx.runtime.engine.scheduler.planned`), and so
are its rules: a pass of prompts stops for a request of a higher priority, a pass whose requests are
all gone stops, and a prompt that would take too long is cut and computed whole behind
(:mod:`sc2onnx.serve.haste`).
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from fleet_model.clock import Clock
from fleet_model.costs import MEASURED, STOP, StepTable
from fleet_model.row import Ask, End, Row
from fleet_model.store import DEFAULT, Store, Text
from sc2onnx.runtime.engine.costs import FLAT, MixedCosts, StepCosts
from sc2onnx.runtime.engine.scheduler import Limits, Standing, Wish, admitted, planned
from sc2onnx.serve.ask import WARMS
from sc2onnx.serve.haste import steady
from sc2onnx.serve.service import MOST_WARMING

CHUNK: Final = 256

LEARNT: Final = 32
"""Tokens of the longest step that a server has measured: longer ones take more than 0.15 s."""

SHIFTS: Final = 0.03
"""Share of the keys after which a cut prompt begins elsewhere, and

:data:`SHIFTED`, the part of it that is computed again: 1,700 keys at the mini checkpoint's
tokenizer, prompts cut to 64, 96 and 128 tokens.
"""

SHIFTED: Final = (0.2, 0.7)


@dataclass(frozen=True, slots=True)
class Server:
    """How nodes are set up. ``slots``: requests that are computed together; ``waiting``: requests
    under way, beyond which others are refused; ``prompt_seconds``: that a prompt may take, before
    it is cut; None: any; ``kept``: bytes of caches; ``costs``: of steps, in the median; ``noise``:
    standard deviation of the logarithm of what each takes. What the server does not do: ``steady``,
    cuts follow ``costs`` and not what was measured of the latest steps; ``sees``, requests see what
    those under way have computed.
    """

    slots: int = 8
    waiting: int = 64
    prompt_seconds: float | None = 0.5
    kept: int = DEFAULT
    costs: StepTable = field(default_factory=StepTable)
    noise: float = 0.1
    steady: bool = False
    sees: bool = False


class Node:
    """A server. ``busy``: seconds in which it computed for somebody, ``behind``: for later keys;
    ``asked``: requests so far, without those behind.
    """

    def __init__(self, clock: Clock, server: Server, chance: random.Random) -> None:
        self._clock, self._server = clock, server
        self._chance = chance
        self._known = _learnt(server.costs)
        self.store = Store(server.kept)
        self._limits = Limits(server.slots, CHUNK, together=True, shared=True)
        self._waiting: list[Row] = []
        self._active: list[Row] = []
        self._gone: list[Row] = []
        self._following = deque[Row]()
        self._passing: dict[int, int] | None = None
        self._passed_rows: list[Row] = []
        self._number = self._arrivals = self._under_way = self.asked = 0
        self._running = False
        self._pass_began = 0.0
        self.busy = self.behind = 0.0

    @property
    def idle(self) -> bool:
        """Whether it knows of no request."""
        return not (self._waiting or self._active or self._gone)

    def submit(self, ask: Ask, over: Callable[[Row, End], None]) -> Row | None:
        """A request under way; None: it is refused."""
        if self._under_way >= self._server.waiting:
            return None
        self._under_way += 1
        self.asked += 1
        cut = self._cut(ask)
        text = ask.text._replace(cut=cut) if cut else ask.text
        row = Row(ask, text, cut or ask.tokens)
        row.over = over
        self._arrive(row)
        if self._server.sees and not cut:
            for each in self._following:
                if each.text == text:
                    self.cancel(each)
        if cut:
            self._follow(Row(ask, ask.text, ask.tokens, WARMS))
        return row

    def cancel(self, row: Row) -> None:
        """Whoever asked is gone."""
        if row.cancelled:
            return
        row.cancelled = True
        if not row.priority:
            self._under_way -= 1
        self._gone.append(row)
        if self._passed_rows and all(each.cancelled for each in self._passed_rows):
            self._stop()
        row.end("superseded")

    def restart(self) -> None:
        """Lose what runs, and all that is kept."""
        for row in [*self._waiting, *self._active]:
            row.cancelled = True
            row.end("lost")
        self._waiting, self._active, self._gone = [], [], []
        self._passing, self._passed_rows, self._running = None, [], False
        self._following.clear()
        self._number += 1
        self._under_way = 0
        self.store.clear()

    def _cut(self, ask: Ask) -> int:
        """Tokens that a prompt is cut to; 0: none (:func:`sc2onnx.serve.haste.tokens_in`)."""
        seconds = self._server.prompt_seconds
        costs = self._server.costs if self._server.steady else self._known
        if seconds is None:
            return 0
        left = ask.tokens - min(self._reach(ask.text), ask.tokens - ask.changed)
        if costs.seconds(0, left) <= seconds:
            return 0
        most = bisect_right(range(1, left + 1), seconds, key=partial(costs.seconds, 0))
        cut = steady(most)
        return cut if cut < ask.tokens else 0

    def _reach(self, text: Text) -> int:
        """Tokens of a text that a request would find computed."""
        kept = self.store.reach(text)
        if not self._server.sees:
            return kept
        return max([kept, *(row.prompt - row.left for row in self._active if row.text == text)])

    def _follow(self, row: Row) -> None:
        """Compute for later keys: of the latest requests only."""
        going = [each.text for each in self._following if not each.cancelled]
        if self._server.sees and row.text in going:
            return
        while len(self._following) >= MOST_WARMING:
            self.cancel(self._following.popleft())
        self._following.append(row)
        self._arrive(row)

    def _arrive(self, row: Row) -> None:
        self._arrivals += 1
        row.arrival, row.began = self._arrivals, self._clock.now
        self._waiting.append(row)
        if not self._running:
            self._running = True
            self._clock.after(0.0, partial(self._step, self._number))
        elif self._gives_way(row.priority):
            self._stop()

    def _gives_way(self, priority: int) -> bool:
        """Whether a pass runs that only computes prompts of a lower priority."""
        rows = self._passed_rows
        return bool(rows) and all(each.left and each.priority < priority for each in rows)

    def _stop(self) -> None:
        """Stop the pass that runs: nothing of it is kept."""
        self._count(self._clock.now + STOP - self._pass_began)
        self._passing, self._passed_rows = None, []
        self._number += 1
        self._clock.after(STOP, partial(self._step, self._number))

    def _count(self, seconds: float) -> None:
        if all(row.priority < 0 for row in self._passed_rows):
            self.behind += seconds
        else:
            self.busy += seconds

    def _step(self, number: int) -> None:
        """Begin a step, unless the one that was to come is another by now."""
        if number != self._number:
            return
        for row in self._gone:
            self._leave(row)
        self._gone.clear()
        self._admit()
        if not self._active:
            self._running = False
            return
        plan = self._planned()
        rows = self._active
        self._passed_rows = [rows[place] for place in plan]
        self._passing = plan
        self._pass_began = self._clock.now
        seconds = self._server.costs.seconds(sum(plan.values()), 0)
        seconds *= self._chance.lognormvariate(0.0, self._server.noise)
        self._clock.after(seconds, partial(self._passed, number))

    def _planned(self) -> dict[int, int]:
        """Tokens of each active row in the next step, by its place."""
        rows, now = self._active, self._clock.now
        if not any(row.left for row in rows):
            return dict.fromkeys(range(len(rows)), 1)
        wishes = [Wish(_standing(row, now), row.left, CHUNK) for row in rows]
        return planned(wishes, self._limits, self._known)

    def _admit(self) -> None:
        free, now = self._server.slots - len(self._active), self._clock.now
        if not self._waiting or free <= 0:
            return
        standings = [_standing(row, now) for row in self._waiting]
        entering = [self._waiting[place] for place in admitted(standings, free)]
        for row in entering:
            row.reused = min(self.store.take(row.text), row.prompt - self._changed(row))
            row.left = row.prompt - row.reused
            self._waiting.remove(row)
            self._active.append(row)

    def _changed(self, row: Row) -> int:
        """Last tokens of a prompt that are not those of the key before."""
        changed = min(row.ask.changed, row.prompt)
        if row.text.cut and self._chance.random() < SHIFTS:
            return max(changed, int(self._chance.uniform(*SHIFTED) * row.prompt))
        return changed

    def _passed(self, number: int) -> None:
        """A pass has ended."""
        if number != self._number or self._passing is None:
            return
        now = self._clock.now
        self._count(now - self._pass_began)
        rows, counts = self._passed_rows, self._passing.values()
        decoding = [1 for row in rows if not row.left]
        entering = sum(counts) - len(decoding)
        self._known.add(decoding, entering, now - self._pass_began)
        self._passing, self._passed_rows = None, []
        for row, count in zip(rows, counts, strict=True):
            if row.left:
                row.left -= count
                if row.left:
                    continue
                row.first = now
            row.made += 1
            if row.made >= row.wanted and not row.cancelled:
                self._done(row)
        self._step(number)

    def _done(self, row: Row) -> None:
        row.cancelled = True
        self._leave(row)
        if not row.priority:
            self._under_way -= 1
        row.end("done")

    def _leave(self, row: Row) -> None:
        """Leave what was computed to later requests."""
        if row in self._active:
            self._active.remove(row)
            self.store.put(row.text, row.prompt - row.left + max(0, row.made - 1))
        elif row in self._waiting:
            self._waiting.remove(row)


def _standing(row: Row, now: float) -> Standing:
    return Standing(row.priority, row.arrival, now - row.began)


def _learnt(costs: StepTable) -> MixedCosts:
    """What a server that has run for a while knows of its steps."""
    steps = StepCosts(FLAT)
    for size in MEASURED:
        if size <= LEARNT:
            steps.add(size, costs.seconds(size, 0))
    return MixedCosts(steps, together=True)
