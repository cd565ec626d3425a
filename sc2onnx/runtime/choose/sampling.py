"""Logits -> token. Filters compose in the order of transformers' generate: repetition penalty, temperature, top-k, top-p, min-p."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sc2onnx.errors import InferenceError, SamplingError
from sc2onnx.runtime.arguments import shown

_LIKELY: Final = 1e-2
"""Top-p looks at tokens at least so likely, relative to the most likely one, first: the nucleus is
nearly always small."""

_SORTED: Final = 1024
"""Weights that are sorted."""

_BINS: Final = 1024

_BLOCK: Final = 256
"""Weights that are summed before it is looked which of them is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParameters:
    """How tokens are drawn, by keyword; the defaults are greedy. Raises :class:`SamplingError` on
    construction.

    ``temperature`` 0 takes the most likely token; ``top_k`` 0 and ``top_p`` 1 and ``min_p`` 0 keep
    every candidate. ``min_p`` keeps tokens at least so likely relative to the most likely one.
    ``repetition_penalty`` (CTRL, Keskar 2019) divides positive and multiplies negative logits of
    every token already in the prompt or the output; 1 is none. ``seed`` None draws fresh entropy.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
            _check(name, getattr(self, name), _is_number(getattr(self, name)), "a number")
        _check("temperature", self.temperature, 0.0 <= self.temperature < math.inf, "0 (greedy) or more")
        _check("top_k", self.top_k, _is_whole(self.top_k) and self.top_k >= 0, "a whole number, 0 for no limit")
        _check("top_p", self.top_p, 0.0 < self.top_p <= 1.0, "more than 0 and at most 1")
        _check("min_p", self.min_p, 0.0 <= self.min_p <= 1.0, "0 to 1")
        penalty = self.repetition_penalty
        _check("repetition_penalty", penalty, 0.01 <= penalty <= 100.0, "0.01 to 100 (1 for none)")
        seeded = _is_whole(self.seed) and self.seed is not None and self.seed >= 0
        _check("seed", self.seed, self.seed is None or seeded, "None or a whole number from 0")
        self._as_plain_numbers()

    def _as_plain_numbers(self) -> None:
        """Keep Python's numbers in the place of numpy's, whose arithmetic wraps: -np.uint8(5) is 251."""
        for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
            object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "top_k", int(self.top_k))
        object.__setattr__(self, "seed", None if self.seed is None else int(self.seed))


_NOT_FINITE: Final = "the model computed logits that are not finite: the checkpoint holds infinities or NaN, or overflows in this precision"


def finite(token: int) -> int:
    """A token that a device chose. Raises :class:`InferenceError` for -1, which stands for logits that are not numbers."""
    if token < 0:
        raise InferenceError(_NOT_FINITE)
    return token


class Sampler:
    """Draws tokens for one sequence: its own random state, and what it has seen for the repetition penalty."""

    def __init__(
        self,
        parameters: SamplingParameters,
        prompt: npt.NDArray[np.int64],
        vocab: int,
        spawned: tuple[int, ...] = (),
    ) -> None:
        """``spawned``: which of the seed's independent streams of random numbers; () is that of a
        single sample.
        """
        self._parameters = parameters
        self._random = np.random.default_rng(np.random.SeedSequence(parameters.seed, spawn_key=spawned))
        self._seen: npt.NDArray[np.bool_] | None = None
        if parameters.repetition_penalty != 1.0:
            self._seen = np.zeros(vocab, dtype=np.bool_)
            self._seen[prompt] = True

    def draw(self, logits: npt.NDArray[np.float32]) -> int:
        """One token from logits (vocab,), which are left alone. Raises :class:`InferenceError` if they are not numbers."""
        if not np.isfinite(logits.max()):
            raise InferenceError(_NOT_FINITE)
        scores = self._penalised(logits)
        token = int(scores.argmax()) if self._parameters.temperature == 0.0 else self._sample(scores)
        if self._seen is not None:
            self._seen[token] = True
        return token

    @property
    def greedy(self) -> bool:
        """Whether it takes the most likely token, whatever came before."""
        return self._parameters.temperature == 0.0 and self._seen is None

    def _sample(self, scores: npt.NDArray[np.float32]) -> int:
        """Inverse transform sampling over the surviving candidates, in order of token id."""
        tokens, weights = _weighted(scores, self._parameters)
        place = drawn(weights, self._random.random())
        return place if tokens is None else int(tokens[place])

    def _penalised(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if self._seen is None:
            return logits
        penalty = np.float32(self._parameters.repetition_penalty)
        seen, scores = np.flatnonzero(self._seen), logits.copy()
        scores[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
        return scores


def candidates(scores: npt.NDArray[np.float32], parameters: SamplingParameters) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Tokens that survive temperature, top-k, top-p and min-p, by id, and their probabilities (summing to 1)."""
    tokens, weights = _weighted(scores, parameters)
    return np.arange(scores.size) if tokens is None else tokens, weights / weights.sum()


def _weighted(scores: npt.NDArray[np.float32], parameters: SamplingParameters) -> tuple[npt.NDArray[np.int64] | None, npt.NDArray[np.float64]]:
    """Tokens that survive, by id, None for all, and their weights relative to the most likely."""
    with np.errstate(over="ignore"):  # a temperature next to 0 sends all but the best to -inf, which is what it means
        scaled = (scores - scores.max()).astype(np.float64) / float(parameters.temperature)
    tokens: npt.NDArray[np.int64] | None = None
    if 0 < parameters.top_k < scaled.size:
        threshold = np.partition(scaled, -parameters.top_k)[-parameters.top_k]
        tokens = np.flatnonzero(scaled >= threshold)
        scaled = scaled[tokens]
    weights = np.exp(scaled)
    if parameters.top_p < 1.0:
        kept = nucleus(weights, parameters.top_p)
        tokens, weights = kept if tokens is None else tokens[kept], weights[kept]
    if parameters.min_p > 0.0:
        kept = np.flatnonzero(weights >= parameters.min_p * weights.max())
        tokens, weights = kept if tokens is None else tokens[kept], weights[kept]
    return tokens, weights


def drawn(weights: npt.NDArray[np.float64], share: float) -> int:
    """Where the running sum of weights passes this share of their total, found by sums of blocks first:
    a running sum of 49,152 numbers takes longer than all the rest.
    """
    starts = np.arange(0, weights.size, _BLOCK)
    sums = np.add.reduceat(weights, starts).cumsum()
    goal = share * sums[-1]
    block = int(np.searchsorted(sums, goal, side="right"))
    if block < starts.size:
        first = int(starts[block])
        inside = weights[first : first + _BLOCK].cumsum()
        before = sums[block - 1] if block else 0.0
        place = first + int(np.searchsorted(inside, goal - before, side="right"))
        if place < first + inside.size:
            return place
    # Rounding went past the end: the last one of the block, or of all, that can be drawn.
    end = weights.size if block == starts.size else first + inside.size
    return int(np.flatnonzero(weights[:end])[-1])


def nucleus(weights: npt.NDArray[np.float64], top_p: float) -> npt.NDArray[np.int64]:
    """Sorted indices of the fewest weights that together reach ``top_p`` of the sum; one at least (Holtzman 2020).

    Sorting 49,152 weights costs 3 ms. So bins of weights are summed, from the largest, and only the
    bin that reaches the goal is looked into, until it is small enough to be sorted.
    """
    goal, kept = top_p * weights.sum(), np.zeros(weights.size, dtype=np.bool_)
    pool = np.flatnonzero(weights >= _LIKELY * weights.max())
    if weights[pool].sum() < goal:
        pool = np.arange(weights.size)
    while pool.size > _SORTED:
        inside = weights[pool]
        low, high = inside.min(), inside.max()
        if low == high:
            break
        bins = ((high - inside) * ((_BINS - 1) / (high - low))).astype(np.int64)
        sums = np.bincount(bins, inside, _BINS).cumsum()
        edge = min(int(np.searchsorted(sums, goal)), _BINS - 1)
        kept[pool[bins < edge]] = True
        goal -= sums[edge - 1] if edge else 0.0
        pool = pool[bins == edge]
    order = pool[np.argsort(-weights[pool], kind="stable")]
    count = int(np.searchsorted(weights[order].cumsum(), goal)) + 1
    kept[order[:count]] = True
    return np.flatnonzero(kept)


def log_probability(logits: npt.NDArray[np.float32], token: int) -> float:
    """Natural log of the model's own probability of ``token`` (no temperature, no filters). logits: (vocab,)."""
    shifted = (logits - logits.max()).astype(np.float64)
    return float(shifted[token] - np.log(np.exp(shifted).sum()))


def _is_number(value: object) -> bool:
    """Whether it is a real number that float64 holds; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return False
    try:
        return not math.isinf(float(value)) or math.isinf(value)
    except OverflowError:
        return False


def _is_whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _check(name: str, value: object, ok: bool, expected: str) -> None:
    if not ok:
        raise SamplingError(f"{name} is {shown(value)}, expected {expected}")
