"""The simulation beside what real servers were measured to do (docs/decisions/0017-serving.md)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import inf
from statistics import median
from typing import Final

from fleet_model.editors import Habits
from fleet_model.fleet import Fleet, Plan
from fleet_model.seen import percentile

SEEDS: Final = range(8)

LOAD: Final = Plan(
    nodes=1, editors=32, policy="affinity", hop=0.0, settles=0.0, seconds=600.0,
    habits=Habits(files=1, switches=0.0, opens=0.0, tokens=600, even=True, wanted=(16, 16)),
)  # fmt: skip
"""32 editors at one server, 10 minutes."""

_WAITS: Final = Habits(
    keys=100, think=2.0, files=2, switches=1.0, opens=0.0, even=True, waits=True, wanted=(12, 12),
)  # fmt: skip
TRACE: Final = replace(LOAD, editors=1, seconds=145.0, habits=_WAITS)
"""200 keys of one editor, who waits for each completion."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A figure: ``measured``, and ``simulated`` with each seed."""

    name: str
    measured: float
    simulated: list[float]

    @property
    def off(self) -> float:
        """By how much the median of the simulated ones is larger, of the measured one."""
        return median(self.simulated) / self.measured - 1

    def __str__(self) -> str:
        span = f"{min(self.simulated):,.0f} - {max(self.simulated):,.0f}"
        told = f"{median(self.simulated):,.0f} ({span})"
        return f"| {self.name} | {self.measured:,.0f} | {told} | {self.off:+.0%} |"


def compared(noise: float | None = None) -> list[Compared]:
    """All figures. ``noise``: of steps, see :class:`~fleet_model.node.Server`."""
    return [*compared_load(SEEDS, noise), *_trace(_noisy(TRACE, noise))]


def _noisy(plan: Plan, noise: float | None) -> Plan:
    return plan if noise is None else replace(plan, server=replace(plan.server, noise=noise))


def compared_load(seeds: Iterable[int], noise: float | None = None) -> list[Compared]:
    """Figures of 32 editors."""
    plan = _noisy(LOAD, noise)
    runs = [Fleet(replace(plan, seed=seed)).run() for seed in seeds]

    def figure(name: str, measured: float, of: list[float]) -> Compared:
        return Compared(f"32 editors: {name}", measured, of)

    return [
        figure("requests", 6688, [run.requests for run in runs]),
        figure("with a first token before the next key", 4137, [run.answered for run in runs]),
        figure("to the end", 1080, [run.ends["done"] for run in runs]),
        figure("first token, median, ms", 107, [1e3 * run.first[0] for run in runs]),
        figure("first token, p95, ms", 551, [1e3 * run.first[1] for run in runs]),
    ]


def _trace(plan: Plan) -> list[Compared]:
    typed, moved, every = list[list[float]](), list[float](), list[list[float]]()
    for seed in SEEDS:
        fleet = Fleet(replace(plan, seed=seed))
        fleet.run()
        saw = [each for each in fleet.saw if each.first < inf]
        every.append([each.first for each in saw])
        typed.append([each.first for each in saw if each.kind == "type"])
        moved += [each.first for each in saw if each.kind == "move"]

    def figure(name: str, measured: float, of: list[float]) -> Compared:
        return Compared(f"one editor, 200 keys: first token, {name}, ms", measured, of)

    return [
        figure("median", 52, [1e3 * percentile(each, 50) for each in every]),
        figure("p95", 279, [1e3 * percentile(each, 95) for each in every]),
        figure("p95 of typed characters", 174, [1e3 * percentile(each, 95) for each in typed]),
        figure("median of moves", 406, [1e3 * percentile(moved, 50)]),
    ]
