"""Fleets under more and more load: who waits how long, and how many editors a node bears."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from math import exp, log
from statistics import median
from typing import Any, Final, NamedTuple

from fleet_model.fleet import Fleet, Plan
from fleet_model.policies import hashes_kept
from fleet_model.seen import Figures

BOUNDS: Final = (0.3, 0.5, 1.0)
"""Seconds to the first token that 95 of 100 requests are to have."""

KNEE: Final = 2.0
"""How many times the percentile of the lightest load it is at the knee."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Loads of fleets of one size. ``loads``: editors for each node; ``seeds``: of each policy."""

    nodes: int
    loads: tuple[int, ...]
    seeds: dict[str, int]
    seconds: float


_MANY: Final = (2, 4, 8, 12, 16, 24, 32, 48, 64, 100)
SWEEPS: Final = (
    Sweep(1, _MANY, {"affinity": 4}, 300),
    Sweep(10, _MANY, {"affinity": 3, "rendezvous": 2, "least loaded": 2, "round robin": 2}, 60),
    Sweep(100, (4, 8, 16, 32, 100), {"affinity": 2, "least loaded": 1}, 20),
)
TINY: Final = (
    Sweep(1, (2, 16), {"affinity": 2}, 30),
    Sweep(4, (2, 16), {"affinity": 1, "least loaded": 1}, 20),
)


class Key(NamedTuple):
    """A line of figures."""

    nodes: int
    policy: str


class Point(NamedTuple):
    """Figures at a load, ``per_node`` editors for each node."""

    per_node: int
    seed: int
    figures: Figures


Lines = dict[Key, list[Point]]


def swept(sweeps: Sequence[Sweep], plan: Plan) -> Iterator[tuple[Key, Point]]:
    """The figures of each fleet, policy, load and seed. ``plan``: everything else."""
    for sweep in sweeps:
        for policy, seeds in sweep.seeds.items():
            for load in sweep.loads:
                for seed in range(seeds):
                    one = replace(
                        plan, nodes=sweep.nodes, editors=load * sweep.nodes, policy=policy,
                        seed=seed, seconds=sweep.seconds,
                    )  # fmt: skip
                    with hashes_kept():
                        yield Key(sweep.nodes, policy), Point(load, seed, Fleet(one).run())


def loads_of(points: Sequence[Point]) -> dict[int, list[Figures]]:
    """The figures at each load, one for each seed."""
    found: dict[int, list[Figures]] = {}
    for point in points:
        found.setdefault(point.per_node, []).append(point.figures)
    return found


def borne(points: Sequence[Point], bound: float, which: str = "waited") -> float | None:
    """Editors for each node with which a percentile reaches the bound, by straight lines between
    the logarithms of the medians; None: the lightest load is beyond it; infinite: none is.
    ``which``: a field of :class:`Figures`, or ``first`` for those with a first token.
    """
    curve = list[tuple[int, float]]()
    for load, figures in sorted(loads_of(points).items()):
        curve.append((load, median(value(each, which) for each in figures)))
    if curve[0][1] > bound:
        return None
    for (low, before), (high, after) in pairwise(curve):
        if after > bound:
            part = log(bound / before) / log(after / before)
            return exp(log(low) + part * log(high / low))
    return float("inf")


def knee(points: Sequence[Point]) -> float | None:
    """Editors for each node from which on waiting times are :data:`KNEE` times those of the
    lightest load.
    """
    least = loads_of(points)[min(point.per_node for point in points)]
    return borne(points, KNEE * median(each.waited for each in least))


def value(figures: Figures, which: str) -> float:
    """The 95th percentile of some requests."""
    return figures.first[1] if which == "first" else float(getattr(figures, which))


def as_json(lines: Lines) -> list[dict[str, Any]]:
    """A record for each point."""
    return [
        {**key._asdict(), "per_node": point.per_node, "seed": point.seed, **asdict(point.figures)}
        for key, points in lines.items()
        for point in points
    ]
