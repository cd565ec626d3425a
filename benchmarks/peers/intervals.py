"""Rows with the differences of their windows, and the intervals that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from peers.table import YARDSTICK, Row
from sc2onnx.bench.report import Missing
from sc2onnx.evaluate.interval import Draws, Groups
from sc2onnx.evaluate.measure import Difference

SEED = 0
"""What the draws of the intervals follow from."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A row, and the difference in each window."""

    row: Row
    parts: Sequence[Difference]

    @property
    def divergences(self) -> list[float]:
        """Mean KL divergence of each window, nats."""
        return [part.kl_divergence for part in self.parts]


def bare(rows: Sequence[Measured | Missing]) -> list[Row | Missing]:
    """The rows, without their windows."""
    return [each.row if isinstance(each, Measured) else each for each in rows]


def with_intervals(rows: Sequence[Measured | Missing], groups: Groups) -> list[Row | Missing]:
    """The rows with the intervals of their divergences, and of the quotients with the yardstick's
    on the same positions.
    """
    draws = Draws(groups, SEED)
    found = [each for each in rows if isinstance(each, Measured)]
    yard = next((each.divergences for each in found if each.row.name == YARDSTICK), None)
    weights = [part.positions for part in found[0].parts]
    result = list[Row | Missing]()
    for each in rows:
        if isinstance(each, Missing):
            result.append(each)
            continue
        own = draws.mean(each.divergences, weights)
        row = replace(each.row, interval=(own.low, own.high))
        if yard is not None:
            times = draws.ratio(each.divergences, yard, weights)
            row = replace(row, ratio=(times.low, times.high))
        result.append(row)
    return result
