"""How tokens are drawn: what a request may say of it, checked."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from sc2onnx.errors import SamplingError
from sc2onnx.runtime.arguments import shown
from sc2onnx.runtime.choose.constraint import (
    Constraint,
    ConstraintKeywords,
    JsonSchema,
    constraint_of,
)

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
            check(name, getattr(self, name), _is_number(getattr(self, name)), "a number")
        check(
            "temperature",
            self.temperature,
            0.0 <= self.temperature < math.inf,
            "0 (greedy) or more",
        )
        check(
            "top_k",
            self.top_k,
            _is_whole(self.top_k) and self.top_k >= 0,
            "a whole number, 0 for no limit",
        )
        check("top_p", self.top_p, 0.0 < self.top_p <= 1.0, "more than 0 and at most 1")
        check("min_p", self.min_p, 0.0 <= self.min_p <= 1.0, "0 to 1")
        penalty = self.repetition_penalty
        check("repetition_penalty", penalty, 0.01 <= penalty <= 100.0, "0.01 to 100 (1 for none)")
        seeded = _is_whole(self.seed) and self.seed is not None and self.seed >= 0
        check("seed", self.seed, self.seed is None or seeded, "None or a whole number from 0")
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
    check("logit_bias", given, right and len(found) <= _MOST_BIASED, expected)
    return tuple(found)


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


def check(name: str, value: object, ok: bool, expected: str) -> None:
    """Raise :class:`SamplingError` with what was found and expected, unless it is ``ok``."""
    if not ok:
        raise SamplingError(f"{name} is {shown(value)}, expected {expected}")
