"""What a restart and a new node do to those who type meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Final

from fleet_model.fleet import Fleet, Plan
from fleet_model.policies import hashes_kept
from fleet_model.seen import PATIENT, Saw, tail

BEFORE: Final = 60.0
"""Seconds that are shown before the event."""

AFTER: Final = 180.0
"""Seconds that are shown after it."""

BIN: Final = 20.0
"""Seconds of which each has a percentile."""

DRAINS: Final = 10.0
LOADS: Final = 5.0
"""Seconds that a node ends requests in before it restarts, and those until it is ready again."""


@dataclass(frozen=True, slots=True)
class Course:
    """What happens over time, of several seeds. ``times``: of the middles of bins, the event at 0;
    ``tails``: for each seed the percentile 95 of each bin; ``shares``: for each seed and bin the
    requests of the node that restarts or is new, over those of a mean one.
    """

    event: str
    policy: str
    times: list[float]
    tails: list[list[float]]
    shares: list[list[float]]


def _restarts(fleet: Fleet) -> int:
    fleet.restart(0, DRAINS, LOADS)
    return 0


def _joins(fleet: Fleet) -> int:
    fleet.join()
    return len(fleet.nodes) - 1


def _nothing(fleet: Fleet) -> int:
    return 0


NOTHING: Final = "nothing"
"""No event, to compare with: the same keys are pressed."""

EVENTS: Final[dict[str, Callable[[Fleet], int]]] = {
    NOTHING: _nothing,
    "restart": _restarts,
    "join": _joins,
}


def course(event: str, plan: Plan, seeds: Sequence[int]) -> Course:
    """The course of an event. ``plan``: its fleet, whose seconds are not looked at."""
    found = [_one(event, replace(plan, seed=seed)) for seed in seeds]
    count = int((BEFORE + AFTER) / BIN)
    times = [(number + 0.5) * BIN - BEFORE for number in range(count)]
    tails, shares = [each[0] for each in found], [each[1] for each in found]
    return Course(event, plan.policy, times, tails, shares)


def _one(event: str, plan: Plan) -> tuple[list[float], list[float]]:
    """The percentile and the node's share of each bin."""
    fleet, begins, number = Fleet(plan), plan.settles, -1
    shares, ends = list[float](), [BIN * (at + 1) for at in range(int((BEFORE + AFTER) / BIN))]
    with hashes_kept():
        fleet.clock.run(begins)
        for end in ends:
            if number < 0 and end > BEFORE:
                number = EVENTS[event](fleet)
            before = [node.asked for node in fleet.nodes]
            fleet.clock.run(begins + end)
            came = [node.asked - was for node, was in zip(fleet.nodes, before, strict=True)]
            there = 0 if event != "join" else len(came) if number < 0 else number
            shares.append(came[there] / mean(came) if there < len(came) else 0.0)
    return [tail(each) for each in _bins(fleet, begins, len(ends))], shares


def _bins(fleet: Fleet, begins: float, count: int) -> list[list[Saw]]:
    """Requests that somebody waited for, by the time at which they were sent."""
    found: list[list[Saw]] = [[] for _ in range(count)]
    for saw in fleet.saw:
        at = int((saw.sent - begins) // BIN)
        if saw.next >= PATIENT and 0 <= at < count:
            found[at].append(saw)
    return found
