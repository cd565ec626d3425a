"""A step: what the scheduler says, computed, and drawn from row by row.

A pass that fails leaves every sequence as it was, so its rows are tried one by one, and only those
that fail by themselves are told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sc2onnx.errors import CancelledError
from sc2onnx.runtime.engine.costs import MixedCosts, StepCosts
from sc2onnx.runtime.engine.lobby import Lobby
from sc2onnx.runtime.engine.row import Row
from sc2onnx.runtime.engine.scheduler import Limits, drafting, planned
from sc2onnx.runtime.engine.seats import Run


class Steps:
    """Computes steps for the rows of a lobby.
    For whoever has the turn, but :meth:`stop_if_cancelled`.
    """

    def __init__(self, lobby: Lobby, costs: StepCosts, tell: Callable[[Row], None]) -> None:
        """``tell``: wakes a row's reader, if there is something for it."""
        self._lobby, self._tell = lobby, tell
        self.costs = MixedCosts(costs, lobby.seats.together)
        self.shared = False
        """Whether others may come while a step is computed, for whom it should not be long."""
        self._passing: Sequence[Row] = ()  # of the pass that runs
        self._asked = False  # whether somebody asked a pass to stop; it may have hit the one after

    def stop_if_cancelled(self) -> None:
        """Stop the pass that runs if all its rows are cancelled. For any thread."""
        passing = self._passing
        if passing and all(row.cancelled for row in passing):
            self._stop()

    def give_way(self, priority: int) -> None:
        """Stop the pass that runs if it only computes prompts of a lower priority, which go on from
        where they were before it. For any thread.
        """
        passing = self._passing
        if passing and all(row.prefilling and row.terms.priority < priority for row in passing):
            self._stop()

    def _stop(self) -> None:
        self._asked = True
        self._lobby.seats.cancel()

    def step(self) -> bool:
        """Compute one step for all rows. Whether there was anything to do."""
        self._lobby.see()
        self._mend()
        self._lobby.admit()
        going = [
            row for row in self._lobby.active if not row.paused and not self._lobby.follows(row)
        ]
        if not going:
            if not self._lobby.active:
                self._lobby.seats.tidy()
            return bool(self._lobby.waiting)
        wishes = [self._lobby.wish(row) for row in going]
        together = self._lobby.seats.together
        limits = Limits(
            self._lobby.bounds.rows,
            self._lobby.bounds.chunk,
            together,
            self._lobby.bounds.even,
            self.shared,
        )
        plan = planned(wishes, limits, self.costs)
        rows = [going[place] for place in plan]
        for row in rows:
            row.guesses = []
        self._draft(
            [going[place] for place in drafting(plan, wishes, self._lobby.seats.drafts_together)]
        )
        ids = self._lobby.seats.chooses and all(row.greedy for row in rows)
        runs = [self._run(row, count) for row, count in zip(rows, plan.values(), strict=True)]
        self._compute(rows, runs, ids)
        return True

    def _mend(self) -> None:
        """Have rows as they were before a step that a signal handler broke off."""
        for row in list(self._lobby.active):
            if row.drawing:
                self._lobby.fail(
                    row, CancelledError("a signal handler interrupted the drawing of a token")
                )
            elif row.seat is not None and not self._lobby.follows(row):
                row.settle()

    def _draft(self, rows: Sequence[Row]) -> None:
        """Guesses for rows that may have some; each knows how many tokens the others have."""
        tokens = len(rows)
        for row in rows:
            assert row.seat is not None
            room = self._lobby.bounds.context - row.seat.length
            row.guesses = row.draft(min(self._lobby.bounds.chunk, row.seat.room, room), tokens - 1)
            tokens += len(row.guesses)

    def _run(self, row: Row, count: int) -> Run:
        assert row.seat is not None
        tokens = row.step_tokens(count)
        if not row.prefilling:
            return Run(row.seat, tokens, len(tokens), adapted=row.rules.adapted)
        wanted = count if row.rules.prompt_logprobs else int(count == row.prompt_left)
        return Run(row.seat, tokens, wanted, prefill=True, adapted=row.rules.adapted)

    def _compute(self, rows: Sequence[Row], runs: Sequence[Run], ids: bool) -> None:
        began = time.perf_counter()
        try:
            found = self._passed(rows, runs, ids)
        except CancelledError as error:
            self._cancelled(rows, error)
            return
        except Exception as error:
            for row in rows:
                row.guesses = []
            self._one_by_one(rows, runs, error)
            return
        seconds = self._measured(rows, runs, time.perf_counter() - began)
        total = sum(len(run.tokens) for run in runs)
        for row, run, logits in zip(rows, runs, found, strict=True):
            self._advance(row, run, logits, seconds, total - len(run.tokens))

    def _passed(
        self, rows: Sequence[Row], runs: Sequence[Run], ids: bool
    ) -> list[npt.NDArray[Any]]:
        self._passing = rows
        try:
            if all(row.cancelled for row in rows):  # cancel() saw no pass yet, or sees this one
                raise CancelledError("the sequence was closed")
            return self._lobby.seats.forward(runs, ids=ids)
        finally:
            self._passing = ()

    def _measured(self, rows: Sequence[Row], runs: Sequence[Run], seconds: float) -> float | None:
        """The seconds of a step, if they say what its drafts took; they are noted."""
        entering = sum(
            len(run.tokens) for row, run in zip(rows, runs, strict=True) if row.prefilling
        )
        decoding = [
            len(run.tokens) for row, run in zip(rows, runs, strict=True) if not row.prefilling
        ]
        self.costs.add(decoding, entering, seconds)
        return None if entering else seconds

    def _one_by_one(self, rows: Sequence[Row], runs: Sequence[Run], error: Exception) -> None:
        """Compute the rows of a step that failed; who fails alone is told why."""
        if len(rows) == 1:
            self._lobby.fail(rows[0], error)
            return
        for row, run in zip(rows, runs, strict=True):
            single = run if row.prefilling else replace(run, tokens=run.tokens[:1], wanted=1)
            self._compute([row], [single], self._lobby.seats.chooses and row.greedy)

    def _cancelled(self, rows: Sequence[Row], error: CancelledError) -> None:
        """The pass was stopped: for rows that are closed, for others that go first, or
        because the program ends.
        """
        for row in rows:
            row.guesses = []
        asked, self._asked = self._asked, False
        if not asked and not any(row.cancelled for row in rows):
            for row in rows:
                self._lobby.fail(row, error)

    def _advance(
        self, row: Row, run: Run, logits: npt.NDArray[Any], seconds: float | None, beside: int
    ) -> None:
        """Draw from what a step gave, and tell the reader."""
        if row.cancelled or not run.wanted:
            return
        if logits.dtype.kind == "f" and not np.isfinite(logits).all():
            row.keeps = False  # it would spoil whatever is computed after it
        if run.prefill and row.rules.prompt_logprobs:
            logits = row.score(logits)
            if row.prompt_left:
                return
        row.drawing = True
        try:
            if row.prefilling:
                row.moments.mark("prompt")
                self._lobby.share(row, logits[0])
            count = len(row.guesses)
            right = row.advance(list(logits), seconds, beside)
            if count > right:
                run.seat.rewind(count - right)
        except Exception as error:
            row.drawing = False
            self._lobby.fail(row, error)
            return
        row.drawing = False
        self._lobby.leave(row) if row.ended else self._tell(row)
