"""Drafts from the text already there: what followed the last tokens when they stood there before.

A step of several tokens costs less than as many steps of one, so tokens that can be guessed are computed together and kept as far as the
model draws the same itself (speculative decoding, Leviathan et al. 2023; drafts by lookup in the prompt, Saxena 2023). A guess is one
token, not a distribution: drawing from the model and comparing is then the rejection sampling of that paper, with the draws, the random
numbers and so the tokens of decoding without drafts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

MOST: Final = 31
"""Tokens of a draft: beyond steps of 32, a token of a step costs about the same."""

_CANDIDATES: Final = 16
"""Earlier places that are compared, the latest ones; in real code few pairs of tokens have more that differ."""

_LONGEST: Final = 32
"""Tokens of a match that count: longer ones are not surer."""

_NEAR: Final = 24
"""After a run of copied tokens broke off, it may go on within so many tokens of its source: a name was replaced, an argument added."""

_NEAR_BONUS: Final = 3
"""What standing there is worth, in tokens of a match."""

RISK: Final = 0.02
"""Of a request's time, what drafts may lose in all."""

STAKE: Final = 1.5
"""Steps that they may lose beyond that: with nothing to lose, none would ever be made."""


@dataclass(frozen=True, slots=True)
class Match:
    """The last ``length`` tokens stood before ``position`` as well."""

    position: int
    length: int


class SuffixIndex:
    """A growing text, and where its last tokens stood before."""

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self._tokens: list[int] = []
        self._after: dict[tuple[int, int], list[int]] = {}  # pair of tokens -> positions that follow it
        self._resume: int | None = None  # where the source of the last match would go on
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens."""
        for token in tokens:
            size = len(self._tokens)
            if size >= 2:
                self._after.setdefault((self._tokens[-2], self._tokens[-1]), []).append(size)
            if self._resume is not None and self._tokens and self._resume < size:
                self._resume += self._tokens[self._resume] == token  # a token that the source lacks does not move it on
            self._tokens.append(token)

    def match(self) -> Match | None:
        """The longest match; of equals the latest. A little beyond the source of the last one a single token is enough.

        In ``a b c x a b``, the last two tokens stood before position 2. After ``a b d`` nothing matches, but if ``c`` was being copied when
        ``d`` came instead, a following ``x`` matches that of position 3.
        """
        if len(self._tokens) < 2:
            return None
        near = range(0) if self._resume is None else range(self._resume, min(self._resume + _NEAR, len(self._tokens)))
        places = set(self._after.get((self._tokens[-2], self._tokens[-1]), ())[-_CANDIDATES:])
        places.update(place for place in near if self._tokens[place - 1] == self._tokens[-1])
        best = max(((self._length(place) + _NEAR_BONUS * (place in near), place) for place in places), default=None)
        if best is None:
            return None
        self._resume = best[1]
        return Match(best[1], self._length(best[1]))

    def following(self, match: Match, count: int) -> list[int]:
        """``count`` tokens from a match on. What runs into the end of the text goes round: ``x y x`` is followed by ``y x y``."""
        period = len(self._tokens) - match.position
        return [self._tokens[match.position + offset % period] for offset in range(count)]

    def _length(self, place: int) -> int:
        end, length = len(self._tokens), 0
        while length < min(_LONGEST, place) and self._tokens[place - 1 - length] == self._tokens[end - 1 - length]:
            length += 1
        return length


class StepCosts:
    """Seconds of a step by its number of tokens, as measured: medians of the latest. Shared by the requests of a model.

    What was measured while the machine was busy must not stay true for ever: of lengths that are not used, because they seemed dear, the
    oldest measurement is forgotten now and then, until they are thought to cost what is assumed and tried again.
    """

    _KEPT: Final = 9
    _ENOUGH: Final = 3
    _FORGET: Final = 64
    """Steps of one token after which each other length forgets a measurement."""
    _PER_TOKEN: Final = 0.4
    """What each further token costs, of a step of one, until it is measured (int4, 2 cores: docs/decisions/0009-speculation.md)."""

    def __init__(self) -> None:
        self._measured: dict[int, deque[float]] = {}
        self._medians: dict[int, float] = {}
        self._singles = 0

    def add(self, size: int, seconds: float) -> None:
        """A step of ``size`` tokens took so long."""
        times = self._measured.setdefault(size, deque(maxlen=self._KEPT))
        times.append(seconds)
        self._medians[size] = median(list(times))  # a copy: another thread may be adding
        self._singles += size == 1
        if self._singles >= self._FORGET:
            self._singles = 0
            self._forget()

    def _forget(self) -> None:
        for size, times in list(self._measured.items()):
            if size == 1:
                continue
            if len(times) > 1:
                times.popleft()
                self._medians[size] = median(list(times))
            else:
                del self._measured[size]
                self._medians.pop(size, None)

    def sizes(self) -> list[int]:
        """Numbers of tokens that were measured."""
        return list(self._medians)

    @property
    def known(self) -> bool:
        """Whether a step of one token was measured often enough: the first one after loading also reads the weights."""
        return len(self._measured.get(1, ())) >= self._ENOUGH

    def seconds(self, size: int) -> float:
        """Of a step of ``size`` tokens; between and beyond measured sizes by straight lines. Needs :attr:`known`."""
        medians = dict(self._medians)
        if size in medians:
            return medians[size]
        below = max(known for known in medians if known < size)
        above = min((known for known in medians if known > size), default=None)
        if above is None:
            slope = self._PER_TOKEN * medians[1] if below == 1 else (medians[below] - medians[1]) / (below - 1)
        else:
            slope = (medians[above] - medians[below]) / (above - below)
        return medians[below] + max(slope, 0.0) * (size - below)


class Acceptance:
    """How likely a draft's token is right, by the length of the match before it: what code in general has, then what this text has."""

    _LEAST: Final = (1, 2, 3, 5, 9, 17)
    _RIGHT: Final = (0.28, 0.49, 0.6, 0.71, 0.81, 0.88)
    """Measured on code, next to :attr:`_LEAST` tokens of match or more (docs/decisions/0009-speculation.md)."""
    _WEIGHT: Final = 8.0

    def __init__(self) -> None:
        self._tried = [self._WEIGHT] * len(self._LEAST)
        self._right = [self._WEIGHT * rate for rate in self._RIGHT]

    def rate(self, length: int) -> float:
        """Of a token after a match of so many."""
        group = self._group(length)
        return self._right[group] / self._tried[group]

    def add(self, length: int, right: bool) -> None:
        """A token after a match of so many was right, or not."""
        group = self._group(length)
        self._tried[group] += 1
        self._right[group] += right

    def _group(self, length: int) -> int:
        return max(group for group, least in enumerate(self._LEAST) if length >= least)


@dataclass(slots=True)
class Drafter:
    """Drafts for one request: how long they should be, by what steps cost and what was accepted so far.

    However it turns out, a request is not slower than without by more than :data:`RISK` of its time and :data:`STAKE` steps: a draft is
    made only if the time lost, should all of it be wrong, stays within that and within what drafts have gained so far.
    """

    text: SuffixIndex
    costs: StepCosts
    drafted: int = 0
    accepted: int = 0
    _acceptance: Acceptance = field(default_factory=Acceptance)
    _match: Match | None = None
    _gained: float = 0.0  # seconds
    _plain: float = 0.0  # seconds that the tokens so far take without drafts

    def draft(self, limit: int) -> list[int]:
        """Tokens to compute together with the last one, at most ``limit``; often none."""
        if limit < 1 or not self.costs.known or (match := self.text.match()) is None:
            return []
        self._match = match
        return self.text.following(match, self._best_length(match, min(limit, MOST)))

    def outcome(self, draft: Sequence[int], given: Sequence[int], seconds: float | None) -> None:
        """A step with ``draft`` gave these tokens: those of the draft as far as it was right, and one more. None: it was not measured."""
        self.text.extend(given)
        if seconds is None:
            return
        self.costs.add(len(draft) + 1, seconds)
        plain = self.costs.seconds(1) * len(given)
        self._plain += plain
        if not draft:
            return
        assert self._match is not None
        right = sum(token == guess for token, guess in zip(given, draft, strict=False))
        for offset in range(min(right + 1, len(draft))):
            self._acceptance.add(self._match.length + offset, offset < right)
        self.drafted += len(draft)
        self.accepted += right
        self._gained += plain - seconds

    def _best_length(self, match: Match, limit: int) -> int:
        """The length with the most tokens for its time, among those whose loss can be borne."""
        one = self.costs.seconds(1)
        bearable = one + self._gained + RISK * self._plain + STAKE * one
        right = expected = 1.0
        best, best_rate = 0, 1 / one
        for length in range(1, limit + 1):
            right *= self._acceptance.rate(match.length + length - 1)
            expected += right
            cost = self.costs.seconds(length + 1)
            if cost > bearable:
                break
            if expected / cost > best_rate:
                best, best_rate = length, expected / cost
        return best
