"""Many timings -> the middle and how far they scatter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np


@dataclass(frozen=True, slots=True)
class Quartiles:
    """Median and quartiles (linear interpolation between neighbours, as ``numpy.percentile``)."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Median and quartiles of ``values``, at least one of them.
        Of 1, 2, 3, 4, 100: median 3, quartiles 2 and 4.
        """
        low, median, high = np.percentile(np.asarray(values, dtype=np.float64), [25, 50, 75])
        return cls(float(median), float(low), float(high))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Quartiles:
    """Quartiles of ours / theirs, round by round: what slowed a whole round cancels, which a
    ratio of medians would keep.
    """
    return Quartiles.of([a / b for a, b in zip(ours, theirs, strict=True)])
