"""How far a figure would move on other code of the same kind: intervals by the bootstrap.

Positions of a window, and windows of a file, resemble each other, so that single positions say
more than there is to know. What is drawn again, with replacement, is therefore whole groups: files
where there are enough of them, else windows or questions. All figures see the same draws, so that
a difference or a ratio of two models is of the same code on both sides (paired): it is narrower
than either's own interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEVEL: Final = 0.95
DRAWS: Final = 2_000

FEWEST_FILES: Final = 10
"""Files from which on they are what is drawn: of fewer, draws hardly differ."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the interval that covers 95 % of its draws; ``low`` and ``high`` are no numbers
    where nothing can be said of it.
    """

    value: float
    low: float = nan
    high: float = nan


@dataclass(frozen=True, slots=True)
class Groups:
    """Which items belong together, as a number for each, from 0; ``unit``: what a group is."""

    of: tuple[int, ...]
    unit: str

    @classmethod
    def by_file(cls, files: Sequence[int | str], item: str) -> Groups:
        """Files where at least :data:`FEWEST_FILES` of them have an item, else each item on its
        own. ``item``: the plural of what one is called.
        """
        numbers = {file: number for number, file in enumerate(dict.fromkeys(files))}
        if len(numbers) < FEWEST_FILES:
            return cls(tuple(range(len(files))), item)
        return cls(tuple(numbers[file] for file in files), "files")

    @property
    def count(self) -> int:
        """How many groups there are."""
        return max(self.of, default=-1) + 1


class Draws:
    """Draws of groups with replacement. ``seed``: what they follow from."""

    def __init__(self, groups: Groups, seed: int, draws: int = DRAWS) -> None:
        self.groups, count = groups, groups.count
        even = np.full(max(count, 1), 1 / max(count, 1))
        random = np.random.default_rng(seed)
        self._times = random.multinomial(count, even, size=draws).astype(np.float64)

    def mean(self, values: Sequence[float], weights: Sequence[float] | None = None) -> Estimate:
        """The weighted mean of a value for each item."""
        return self._estimate(*self._sums(values, weights))

    def difference(
        self,
        values: Sequence[float],
        base: Sequence[float],
        weights: Sequence[float] | None = None,
    ) -> Estimate:
        """The weighted mean of ``values`` less that of ``base``, item by item."""
        apart = [ours - theirs for ours, theirs in zip(values, base, strict=True)]
        return self.mean(apart, weights)

    def ratio(
        self,
        values: Sequence[float],
        base: Sequence[float],
        weights: Sequence[float] | None = None,
    ) -> Estimate:
        """The weighted mean of ``values`` over that of ``base``."""
        return self._estimate(self._sums(values, weights)[0], self._sums(base, weights)[0])

    def _sums(
        self, values: Sequence[float], weights: Sequence[float] | None
    ) -> tuple[Floats, Floats]:
        """Of each group: what its items weigh times their values, and what they weigh."""
        weighing = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
        of, count = np.asarray(self.groups.of, np.int64), max(self.groups.count, 1)
        weighed = weighing * np.asarray(values, np.float64)
        above, below = np.zeros(count), np.zeros(count)
        np.add.at(above, of, weighed)
        np.add.at(below, of, weighing)
        return above, below

    def _estimate(self, above: Floats, below: Floats) -> Estimate:
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(above.sum() / below.sum())
            drawn = (self._times @ above) / (self._times @ below)
        if self.groups.count < 2 or not np.isfinite(drawn).all():
            return Estimate(value)
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(drawn, (tail, 1 - tail))
        return Estimate(value, float(low), float(high))
