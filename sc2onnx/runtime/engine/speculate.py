"""Drafts: tokens that the text suggests, computed together with the one before them.

A step of several tokens costs less than as many steps of one, so tokens that can be guessed
(:mod:`sc2onnx.runtime.engine.lookup`) are computed together and kept as far as the model draws
the same itself (speculative decoding, Leviathan et al. 2023; drafts by lookup in the prompt,
Saxena 2023). A guess is one token, not a distribution: drawing from the model and comparing is
then the rejection sampling of that paper, with the draws, the random numbers and so the tokens
of decoding without drafts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sc2onnx.runtime.choose.constrained import Steering
from sc2onnx.runtime.engine.costs import StepCosts
from sc2onnx.runtime.engine.lookup import Guess, Lookup

MOST: Final = 31
"""Tokens of a draft: beyond steps of 32, a token of a step costs about the same."""

_HOPELESS: Final = 0.02
"""A draft ends where it is less likely than this to be right so far."""

RISK: Final = 0.02
"""Of a request's time, what drafts may lose in all."""

STAKE: Final = 1.5
"""Steps that they may lose beyond that: with nothing to lose, none would ever be made."""


class Acceptance:
    """How likely a guess is right, by the match before it and the votes for it: what code
    has, then what this text has.
    """

    _LENGTHS: Final = (1, 2, 3, 5, 9, 17)
    _SHARES: Final = (0.0, 0.5, 0.999)
    _RIGHT: Final = (
        (0.13, 0.19, 0.42),
        (0.18, 0.32, 0.62),
        (0.18, 0.50, 0.76),
        (0.16, 0.43, 0.87),
        (0.30, 0.51, 0.88),
        (0.30, 0.45, 0.97),
    )
    """Measured on code (docs/decisions/0009-speculation.md): by at least so many tokens of match,
    and at least such a share of the votes.
    """
    _WEIGHT: Final = 8.0

    def __init__(self) -> None:
        self._tried = [[self._WEIGHT] * len(self._SHARES) for _ in self._LENGTHS]
        self._right = [[self._WEIGHT * rate for rate in rates] for rates in self._RIGHT]

    def rate(self, guess: Guess) -> float:
        """Return how likely it is right."""
        length, share = self._group(guess)
        return self._right[length][share] / self._tried[length][share]

    def add(self, guess: Guess, right: bool) -> None:
        """Count a guess that was right, or not."""
        length, share = self._group(guess)
        self._tried[length][share] += 1
        self._right[length][share] += right

    def _group(self, guess: Guess) -> tuple[int, int]:
        length = max(group for group, least in enumerate(self._LENGTHS) if guess.length >= least)
        return length, max(
            group for group, least in enumerate(self._SHARES) if guess.share >= least
        )


@dataclass(slots=True)
class Drafter:
    """Drafts for one request: how long they should be, by what steps cost and
    what was accepted so far.

    However it turns out, a request is not slower than without by more than :data:`RISK` of its time
    and :data:`STAKE` steps: a draft is made only if the time lost, should all of it be wrong, stays
    within that and within what drafts have gained so far. Tokens that a constraint forces are
    drafts that are never wrong.
    """

    lookup: Lookup
    costs: StepCosts
    steering: Steering | None = None
    drafted: int = 0
    accepted: int = 0
    _acceptance: Acceptance = field(default_factory=Acceptance)
    _guesses: list[Guess] = field(default_factory=list)  # of the last draft
    _gained: float = 0.0  # seconds
    _plain: float = 0.0  # seconds that the tokens so far take without drafts

    def draft(self, limit: int, beside: int = 0) -> list[int]:
        """Return tokens to compute together with the last one, at most ``limit``; often none.

        ``beside``: tokens of other requests in the same step.
        """
        self._guesses = []
        if limit >= 1 and self.steering is not None and (forced := self._forced(limit)):
            return forced
        if limit >= 1 and self.costs.known:
            self._guesses = self._best(min(limit, MOST), beside)
        guessed = [guess.token for guess in self._guesses]
        if guessed and self.steering is not None:
            guessed = guessed[: self.steering.agreed(guessed)]
            del self._guesses[len(guessed) :]
        return guessed

    def _forced(self, limit: int) -> list[int]:
        """Tokens that the constraint leaves no choice about."""
        assert self.steering is not None
        return self.steering.forced(min(limit, MOST))

    def outcome(
        self, draft: Sequence[int], given: Sequence[int], seconds: float | None, beside: int = 0
    ) -> None:
        """Learn that a step with ``draft`` gave these tokens: those of the draft as far as
        it was right, and one more.

        ``seconds`` is None where the step was not measured; ``beside`` as in :meth:`draft`.
        """
        self.lookup.extend(given)
        if draft:
            right = sum(token == guess for token, guess in zip(given, draft, strict=False))
            for number, guess in enumerate(self._guesses[: right + 1]):
                self._acceptance.add(guess, number < right)
            self.drafted += len(draft)
            self.accepted += right
        if seconds is None:
            return
        plain = self.costs.seconds(beside + 1) * len(given)
        self._plain += plain
        if draft:
            self._gained += plain - seconds

    def _best(self, limit: int, beside: int) -> list[Guess]:
        """The guesses with the most tokens for their time, among drafts whose loss can be borne."""
        one = self.costs.seconds(beside + 1)
        bearable = one + self._gained + RISK * self._plain + STAKE * one
        right = expected = 1.0
        best, best_rate, found = 0, (beside + 1) / one, list[Guess]()
        for guess in self.lookup.guesses():
            found.append(guess)
            right *= self._acceptance.rate(guess)
            expected += right
            cost = self.costs.seconds(beside + len(found) + 1)
            if cost > bearable:
                break
            if (beside + expected) / cost > best_rate:
                best, best_rate = len(found), (beside + expected) / cost
            if len(found) == limit or right < _HOPELESS:
                break
        return found[:best]
