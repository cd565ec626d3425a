"""Logits -> token. Filters compose in the order of transformers' generate: repetition penalty,
temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from sc2onnx.errors import NotFiniteError, SamplingError
from sc2onnx.runtime.arguments import shown
from sc2onnx.runtime.choose.constraint import (
    Constraint,
    ConstraintKeywords,
    JsonSchema,
    constraint_of,
)

_LIKELY: Final = 1e-2
"""Top-p looks at tokens at least so likely, relative to the most likely one, first."""

_BLOCK: Final = 256
"""Weights that are summed before it is looked which of them is drawn."""


Bias = Mapping[int, float] | tuple[tuple[int, float], ...]
"""What is added to logits, by token id."""

_MOST_BIASED: Final = 1024
"""Tokens whose logits are changed."""


class SamplingKeywords(ConstraintKeywords, total=False):
    """The fields of :class:`SamplingParameters`, as type checkers see them in calls."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int | None
    logit_bias: Bias


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParameters:
    """How tokens are drawn, by keyword; the defaults are greedy. Raises :class:`SamplingError` and
    :class:`~sc2onnx.errors.ConstraintError` on construction.

    ``temperature`` 0 takes the most likely token; ``top_k`` 0 and ``top_p`` 1 and ``min_p`` 0 keep
    every candidate. ``min_p`` keeps tokens at least so likely relative to the most likely one.
    ``repetition_penalty`` (CTRL, Keskar 2019) divides positive and multiplies negative logits of
    every token already in the prompt or the output; 1 is none. ``logit_bias`` (token id -> -100 to
    100) is added to logits before that, -100 rules a token out. ``seed`` None draws fresh entropy.

    One of four may say what the text has to be; tokens that would break it are not drawn, and it
    ends only where it is whole, or at ``max_new_tokens``. ``json_schema``: JSON that a schema
    allows, which is given as a dict or as JSON. ``regex``: what an expression matches from end to
    end. ``choices``: one of these texts. ``grammar``: a text of a grammar, in Lark's syntax or in
    llama.cpp's GBNF.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    logit_bias: Bias = ()
    grammar: str | None = None
    json_schema: JsonSchema | None = None
    regex: str | None = None
    choices: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
            _check(name, getattr(self, name), _is_number(getattr(self, name)), "a number")
        _check(
            "temperature",
            self.temperature,
            0.0 <= self.temperature < math.inf,
            "0 (greedy) or more",
        )
        _check(
            "top_k",
            self.top_k,
            _is_whole(self.top_k) and self.top_k >= 0,
            "a whole number, 0 for no limit",
        )
        _check("top_p", self.top_p, 0.0 < self.top_p <= 1.0, "more than 0 and at most 1")
        _check("min_p", self.min_p, 0.0 <= self.min_p <= 1.0, "0 to 1")
        penalty = self.repetition_penalty
        _check("repetition_penalty", penalty, 0.01 <= penalty <= 100.0, "0.01 to 100 (1 for none)")
        seeded = _is_whole(self.seed) and self.seed is not None and self.seed >= 0
        _check("seed", self.seed, self.seed is None or seeded, "None or a whole number from 0")
        self._as_plain_numbers()
        object.__setattr__(self, "logit_bias", _bias(self.logit_bias))
        self._check_constraint()

    def _check_constraint(self) -> None:
        """Keep what the text has to be, checked, as values that cannot change."""
        constraint = self.constraint
        if constraint is not None and constraint.kind == "json_schema":
            object.__setattr__(self, "json_schema", constraint.text)
        if constraint is not None and constraint.kind == "choices":
            assert self.choices is not None
            object.__setattr__(self, "choices", tuple(self.choices))

    @property
    def constraint(self) -> Constraint | None:
        """What the text has to be; None: anything. Raises :class:`~sc2onnx.errors.ConstraintError`
        for more than one.
        """
        return constraint_of(
            {
                "grammar": self.grammar,
                "json_schema": self.json_schema,
                "regex": self.regex,
                "choices": self.choices,
            }
        )

    def _as_plain_numbers(self) -> None:
        """Keep Python's numbers in the place of numpy's, whose arithmetic
        wraps: -np.uint8(5) is 251.
        """
        for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
            object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "top_k", int(self.top_k))
        object.__setattr__(self, "seed", None if self.seed is None else int(self.seed))


def _bias(given: object) -> tuple[tuple[int, float], ...]:
    """What is added to logits, checked, by token id."""
    pairs = given.items() if isinstance(given, Mapping) else given
    expected = f"a dict of at most {_MOST_BIASED} token ids and numbers from -100 to 100"
    try:
        found = sorted(
            (
                operator.index(token),
                float(value),
            )
            for token, value in pairs  # type: ignore[attr-defined]
        )
    except (TypeError, ValueError, OverflowError):
        raise SamplingError(f"logit_bias is {shown(given)}, expected {expected}") from None
    right = all(0 <= token < 2**31 and -100 <= value <= 100 for token, value in found)
    _check("logit_bias", given, right and len(found) <= _MOST_BIASED, expected)
    return tuple(found)


_NOT_FINITE: Final = (
    "the model computed logits that are not finite: the checkpoint holds infinities or NaN, or "
    "overflows in this precision"
)


def finite(token: int) -> int:
    """A token that a device chose. Raises :class:`NotFiniteError` for -1, which stands for
    logits that are not numbers.
    """
    if token < 0:
        raise NotFiniteError(_NOT_FINITE)
    return token


class Sampler:
    """Draws tokens for one sequence: its own random state, and what it has seen
    for the repetition penalty.
    """

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
        self._random = np.random.default_rng(
            np.random.SeedSequence(parameters.seed, spawn_key=spawned)
        )
        bias = dict(parameters.logit_bias)
        self._biased = np.array(list(bias), dtype=np.int64)
        self._bias = np.array(list(bias.values()), dtype=np.float32)
        _check(
            "logit_bias",
            parameters.logit_bias,
            not self._biased.size or self._biased.max() < vocab,
            f"token ids below {vocab}",
        )
        self._seen: npt.NDArray[np.bool_] | None = None
        if parameters.repetition_penalty != 1.0:
            self._seen = np.zeros(vocab, dtype=np.bool_)
            self._seen[prompt] = True

    def draw(self, logits: npt.NDArray[np.float32]) -> int:
        """One token from logits (vocab,), which are left alone.
        Raises :class:`NotFiniteError` if they are not numbers.
        """
        if not np.isfinite(logits.max()):
            raise NotFiniteError(_NOT_FINITE)
        scores = self.penalised(logits)
        token = (
            int(scores.argmax()) if self._parameters.temperature == 0.0 else self._sample(scores)
        )
        if self._seen is not None:
            self._seen[token] = True
        return token

    @property
    def greedy(self) -> bool:
        """Whether it takes the most likely token, whatever came before."""
        return self._parameters.temperature == 0.0 and self._seen is None and not self._biased.size

    def _sample(self, scores: npt.NDArray[np.float32]) -> int:
        """Inverse transform sampling over the surviving candidates, in order of token id."""
        return drawn(_weights(scores, self._parameters), self._random.random())

    def penalised(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits (vocab,) after their bias, and the repetition penalty
        on the tokens seen so far.
        """
        if self._biased.size:
            logits = logits.copy()
            logits[self._biased] += self._bias
        if self._seen is None:
            return logits
        penalty = np.float32(self._parameters.repetition_penalty)
        seen, scores = np.flatnonzero(self._seen), logits.copy()
        scores[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
        return scores


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
    weights = _weights(scores, parameters)
    tokens = np.flatnonzero(weights)
    return tokens, weights[tokens] / weights.sum()


def _weights(
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


def log_probability(logits: npt.NDArray[np.float32], token: int) -> float:
    """Natural log of the model's own probability of ``token`` (no temperature, no
    filters). logits: (vocab,).
    """
    return log_probabilities(logits, [token])[0]


def log_probabilities(
    logits: npt.NDArray[np.float32], tokens: Sequence[int] | npt.NDArray[np.int64]
) -> list[float]:
    """The same of several ``tokens``, over one sum of the vocabulary. logits: (vocab,)."""
    shifted = (logits - logits.max()).astype(np.float64)
    found: list[float] = (shifted[tokens] - np.log(np.exp(shifted).sum())).tolist()
    return found


def likeliest(logits: npt.NDArray[np.float32], count: int) -> tuple[tuple[int, float], ...]:
    """The ``count`` most likely tokens and their log probabilities, as :func:`log_probability` has
    them; the lower id first where two are equal. logits: (vocab,).
    """
    count = min(count, len(logits))
    if not count:
        return ()
    least = np.partition(logits, -count)[-count]
    found = np.flatnonzero(logits >= least)
    found = found[np.argsort(-logits[found], kind="stable")][:count]
    return tuple(zip(found.tolist(), log_probabilities(logits, found), strict=True))


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
