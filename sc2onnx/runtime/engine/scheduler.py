"""Who computes what in the next step. Pure: it knows numbers, no model and no clock.

A step computes the next token of every row that decodes, and beside them as much of the prompts as
keeps their rhythm: as many tokens as make the step twice as long, or by so little longer that
nobody sees it. With nobody decoding it computes a whole chunk, or, where others may come
meanwhile, no more than they can wait for. Rows go by priority, and whoever waits long enough
rises. Among prompts of one level the one with the least left goes first: a keystroke in a file
that is computed already does not wait for somebody else's new file. A prompt of a lower level
waits while any row of a higher one runs.

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
"""Seconds by which a step may always take longer beside a prompt: 40 tokens a second are
faster than anybody reads, and on a GPU passes are so short that a prompt cut to them
would take ten times as long.
"""

LEAST: Final = 8
"""Tokens of a prompt that a step takes at least, so that it gets on."""

SHARED: Final = 0.15
"""Seconds of a step of prompts alone where others may come meanwhile."""

LEAST_SHARED: Final = 4
"""How many times as long as a step of one token it may be in any case:
shorter ones cost too much.
"""

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
    def level(self) -> int:
        """Of its priority, and of its waiting. The least goes first."""
        return -self.priority - int(self.waited / AGING)

    @property
    def order(self) -> tuple[int, int]:
        """The least goes first."""
        return self.level, self.arrival


@dataclass(frozen=True, slots=True)
class Wish:
    """What a row can compute. ``prompt``: tokens of it that are left, 0 if it decodes; ``most``:
    the most tokens that one step may have of it.
    """

    standing: Standing
    prompt: int
    most: int

    @property
    def order(self) -> tuple[int, int, int]:
        """Among prompts, the least goes first."""
        return self.standing.level, self.prompt, self.standing.arrival


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a step. ``rows``: the most; ``chunk``: the most tokens of prompts; ``together``: whether
    these are computed in the pass of the others, and so may be of several rows; ``even``: whether
    all but the last step of a prompt have an even number; ``shared``: whether others may come
    meanwhile, for whom a step should not be long.
    """

    rows: int
    chunk: int
    together: bool
    even: bool = False
    shared: bool = False


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
    first = min((wish.standing.level for wish in wishes), default=0)
    prompts = [
        place for place in order if wishes[place].prompt and wishes[place].standing.level == first
    ]
    entering = sorted(prompts, key=lambda place: wishes[place].order)
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
    if decoding:
        alone = costs.seconds(decoding, 0)
        return _within(max(RHYTHM * alone, alone + UNSEEN), decoding, limits, costs)
    if limits.shared:
        return _within(max(SHARED, LEAST_SHARED * costs.seconds(0, 1)), 0, limits, costs)
    return limits.chunk


def _within(seconds: float, decoding: int, limits: Limits, costs: Costs) -> int:
    """The most tokens of prompts with which a step takes no longer:
    costs rise with their number.
    """
    low, high = min(LEAST, limits.chunk), limits.chunk
    while low < high:
        middle = (low + high + 1) // 2
        if costs.seconds(decoding, middle) <= seconds:
            low = middle
        else:
            high = middle - 1
    return low
