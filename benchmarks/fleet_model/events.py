"""What a restart and a new node do to those who type meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Final

from fleet_model.fleet import Fleet, Plan
from fleet_model.policies import hashes_kept
from fleet_model.seen import PATIENT, tail

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
    ``tails``: for each seed the percentile 95 of each bin; ``share``: requests of the node that
    came back or is new in the last minute, over those of a mean one.
    """

    event: str
    policy: str
    times: list[float]
    tails: list[list[float]]
    share: float


def _restarts(fleet: Fleet) -> int:
    fleet.restart(0, DRAINS, LOADS)
    return 0


def _joins(fleet: Fleet) -> int:
    fleet.join()
    return len(fleet.nodes) - 1


EVENTS: Final[dict[str, Callable[[Fleet], int]]] = {"restart": _restarts, "join": _joins}


def course(event: str, plan: Plan, seeds: Sequence[int]) -> Course:
    """The course of an event. ``plan``: its fleet, whose seconds are not looked at."""
    found = [_one(event, replace(plan, seed=seed)) for seed in seeds]
    count = int((BEFORE + AFTER) / BIN)
    times = [(number + 0.5) * BIN - BEFORE for number in range(count)]
    tails = [tails for tails, _ in found]
    return Course(event, plan.policy, times, tails, mean(share for _, share in found))


def _one(event: str, plan: Plan) -> tuple[list[float], float]:
    with hashes_kept():
        fleet, begins = Fleet(plan), plan.settles
        fleet.clock.run(begins + BEFORE)
        number = EVENTS[event](fleet)
        fleet.clock.run(begins + BEFORE + AFTER - 60)
        before = [node.asked for node in fleet.nodes]
        fleet.clock.run(begins + BEFORE + AFTER)
    came = [node.asked - was for node, was in zip(fleet.nodes, before, strict=True)]
    bins: list[list[int]] = [[] for _ in range(int((BEFORE + AFTER) / BIN))]
    for place, saw in enumerate(fleet.saw):
        at = int((saw.sent - begins) // BIN)
        if saw.next >= PATIENT and 0 <= at < len(bins):
            bins[at].append(place)
    tails = [tail([fleet.saw[place] for place in each]) for each in bins]
    return tails, came[number] / mean(came)
