"""Logits -> weights of the tokens that may be drawn, and what is drawn by weight. Filters compose
in the order of transformers' generate: temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

import threading
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from sc2onnx.runtime.choose.parameters import SamplingParameters

_LIKELY: Final = 1e-2
"""Top-p looks at tokens at least so likely, relative to the most likely one, first."""

_BLOCK: Final = 256
"""Weights that are summed before it is looked which of them is drawn."""


class _Scratch(threading.local):
    """Arrays of a thread that are used again: fresh ones of this size cost
    more than what is computed.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, npt.NDArray[Any]] = {}

    def take(self, name: str, size: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """The array of that name, with whatever it holds."""
        found = self._arrays.get(name)
        if found is None or found.size != size:
            found = self._arrays[name] = np.empty(size, dtype)
        return found


_scratch: Final = _Scratch()


def candidates(
    scores: npt.NDArray[np.float32], parameters: SamplingParameters
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Tokens that survive temperature, top-k, top-p and min-p, by id, and their
    probabilities (summing to 1).
    """
    weights = surviving_weights(scores, parameters)
    tokens = np.flatnonzero(weights)
    return tokens, weights[tokens] / weights.sum()


def surviving_weights(
    scores: npt.NDArray[np.float32], parameters: SamplingParameters
) -> npt.NDArray[np.float64]:
    """Weights (vocab,) relative to the most likely token, 0 for those
    that do not survive; scratch.
    """
    weights: npt.NDArray[np.float64] = _scratch.take("weights", scores.size, np.float64)
    np.subtract(scores, scores.max(), out=weights)  # in float32, as both are
    # a temperature next to 0 sends all but the best to -inf, which is what it means
    with np.errstate(over="ignore"):
        weights /= parameters.temperature
    np.exp(weights, out=weights)
    if 0 < parameters.top_k < scores.size:
        ranked = _scratch.take("scores", scores.size, np.float32)
        ranked[:] = scores
        ranked.partition(scores.size - parameters.top_k)
        weights[scores < ranked[scores.size - parameters.top_k]] = 0.0
    if parameters.top_p < 1.0:
        cut_to_nucleus(weights, parameters.top_p)
    if parameters.min_p > 0.0:
        weights[weights < parameters.min_p * weights.max()] = 0.0
    return weights


def cut_to_nucleus(weights: npt.NDArray[np.float64], top_p: float) -> None:
    """Keep the fewest weights that together reach ``top_p`` of the sum, one at least (Holtzman
    2020), of equal ones the first; the others become 0.
    """
    likely = np.flatnonzero(weights >= _LIKELY * weights.max())
    goal, pool = top_p * weights.sum(), weights[likely]
    if pool.size < weights.size and pool.sum() >= goal:  # nearly always, and then they are few
        _cut(pool, goal)
        weights.fill(0.0)
        weights[likely] = pool
    else:
        _cut(weights, goal)


def _cut(weights: npt.NDArray[np.float64], goal: float) -> None:
    """Keep the fewest weights that together reach ``goal``."""
    ranked = (
        _scratch.take("ranked", weights.size, np.float64)
        if weights.size > _BLOCK
        else np.empty_like(weights)
    )
    ranked[:] = weights
    ranked.sort()  # a tenth of the time of sorting indices
    count = min(_reaching(ranked[::-1], goal, "left") + 1, weights.size)
    least = ranked[weights.size - count]
    weights[weights < least] = 0.0
    equal = np.flatnonzero(weights == least)
    surplus = weights.size - int(np.searchsorted(ranked, least)) - count
    weights[equal[equal.size - surplus :]] = 0.0


def drawn(weights: npt.NDArray[np.float64], share: float) -> int:
    """Where the running sum of weights passes this share of their total; never at a weight of 0."""
    place = _reaching(weights, share * weights.sum(), "right")
    # rounding went beyond the last that can be drawn
    while place == weights.size or not weights[place]:
        place = int(np.flatnonzero(weights[:place])[-1])
    return place


def _reaching(weights: npt.NDArray[np.float64], goal: float, side: Literal["left", "right"]) -> int:
    """Index at which the running sum reaches (``left``) or passes (``right``) a goal, or their
    number where rounding keeps it from that.

    Sums of blocks say in which of these it is: a running sum of 49,152 numbers takes
    longer than all the rest.
    """
    starts = np.arange(0, weights.size, _BLOCK)
    sums = np.add.reduceat(weights, starts).cumsum()
    block = int(np.searchsorted(sums, goal, side))
    if block == starts.size:
        return weights.size
    first = int(starts[block])
    inside = weights[first : first + _BLOCK].cumsum()
    before = sums[block - 1] if block else 0.0
    place = int(np.searchsorted(inside, goal - before, side))
    return first + min(place, inside.size - 1)
