"""Who computes what in the next step. Pure: it knows numbers, no model and no clock.

A step computes the next token of every row that decodes, and beside them as much of the prompts as
keeps their rhythm: with nobody decoding a whole chunk, else as many tokens as make the step twice as
long, or by so little longer that nobody sees it. Rows go by priority, then by the order of their arrival; whoever waits long enough rises.

Worked example, costs of 35 ms for a step and 3.5 ms for each further token: four rows that decode
take 45 ms, so a prompt gets 13 tokens of a step, which takes 91 ms.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

RHYTHM: Final = 2.0
"""How many times as long a step may take beside a prompt as without one."""

UNSEEN: Final = 0.02
"""Seconds by which a step may always take longer beside a prompt: 40 tokens a second are faster than
anybody reads, and on a GPU passes are so short that a prompt cut to them would take ten times as long.
"""

LEAST: Final = 8
"""Tokens of a prompt that a step takes at least, so that it gets on."""

AGING: Final = 10.0
"""Seconds of waiting that are worth a level of priority."""


class Costs(Protocol):
    """What steps cost."""

    def seconds(self, decoding: int, entering: int) -> float:
        """Of a step with the next token of so many rows, and so many tokens of prompts."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a request stands: its ``priority``, its number in the order of arrival, and the seconds
    that it has waited for.
    """

    priority: int
    arrival: int
    waited: float = 0.0

    @property
    def order(self) -> tuple[int, int]:
        """The least goes first."""
        return -self.priority - int(self.waited / AGING), self.arrival


@dataclass(frozen=True, slots=True)
class Wish:
    """What a row can compute. ``prompt``: tokens of it that are left, 0 if it decodes; ``most``: the
    most tokens that one step may have of it.
    """

    standing: Standing
    prompt: int
    most: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a step. ``rows``: the most; ``chunk``: the most tokens of prompts; ``together``: whether
    these are computed in the pass of the others, and so may be of several rows; ``even``: whether
    all but the last step of a prompt have an even number.
    """

    rows: int
    chunk: int
    together: bool
    even: bool = False


def admitted(waiting: Iterable[Standing], free: int) -> list[int]:
    """Which of those that wait enter, as many as are ``free``: their places in ``waiting``."""
    order = sorted((standing.order, place) for place, standing in enumerate(waiting))
    return [place for _, place in order[: max(0, free)]]


def planned(wishes: Sequence[Wish], limits: Limits, costs: Costs) -> dict[int, int]:
    """How many tokens each row computes in the next step, by its place in ``wishes``.

    Rows that decode get 1; beyond that there may be drafts (:func:`drafting`).
    """
    order = sorted(range(len(wishes)), key=lambda place: wishes[place].standing.order)
    decoding = [place for place in order if not wishes[place].prompt][: limits.rows]
    plan = dict.fromkeys(decoding, 1)
    left = _budget(len(decoding), limits, costs)
    entering = [place for place in order if wishes[place].prompt]
    for place in entering[: limits.rows - len(decoding) if limits.together else 1]:
        wish = wishes[place]
        count = min(wish.prompt, wish.most, left)
        if limits.even and 1 < count < wish.prompt:
            count -= count % 2
        if count:
            plan[place] = count
            left -= count
    return plan


def drafting(plan: dict[int, int], wishes: Sequence[Wish], drafts_together: bool) -> list[int]:
    """The rows that may have guesses computed with their token: none while a prompt enters."""
    if any(wishes[place].prompt for place in plan) or (len(plan) > 1 and not drafts_together):
        return []
    return list(plan)


def _budget(decoding: int, limits: Limits, costs: Costs) -> int:
    """Tokens of prompts that a step takes beside rows that decode."""
    if not decoding:
        return limits.chunk
    alone = costs.seconds(decoding, 0)
    spent = max(RHYTHM * alone, alone + UNSEEN)
    low, high = min(LEAST, limits.chunk), limits.chunk
    while low < high:  # the largest that fits: costs rise with the size
        middle = (low + high + 1) // 2
        if costs.seconds(decoding, middle) <= spent:
            low = middle
        else:
            high = middle - 1
    return low
