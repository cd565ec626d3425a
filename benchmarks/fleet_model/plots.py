"""Pictures: waiting over load, and over time around an event. They need matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

import numpy as np

from fleet_model.events import NOTHING, Course
from fleet_model.load import BOUNDS, Key, Lines, Point, knee, loads_of
from sc2onnx.plotting import COLOURS, INK, MUTED, dress, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOOKS: Final = {
    "affinity": (COLOURS[0], "o"),
    "rendezvous": (COLOURS[2], "s"),
    "least loaded": (COLOURS[1], "^"),
    "round robin": (COLOURS[3], "D"),
    "random": (COLOURS[4], "v"),
}
_NAMES: Final = {
    "affinity": "affinity (the front's)",
    "rendezvous": "rendezvous hashing alone",
    "least loaded": "no affinity: least loaded",
    "round robin": "no affinity: round robin",
    "random": "no affinity: random",
}
_LEAST, _MOST = 0.25, 40.0
"""Seconds that are shown."""


def plot_load(lines: Lines, path: Path) -> None:
    """Draw a panel for each number of nodes, a line for each policy, and write it."""
    sizes = sorted({key.nodes for key in lines})
    figure = new_figure()
    figure.set_size_inches(4.2 * len(sizes), 4.8)
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for axes, nodes in zip(panels, sizes, strict=True):
        for key, points in lines.items():
            if key.nodes == nodes:
                _line(axes, key, points)
        _bounds(axes)
        first = nodes == sizes[0]
        name = "seconds to the first token, p95" if first else ""
        told = f"{nodes:,} node" + "s" * (nodes > 1)
        dress(axes, told, _subtitle(lines, nodes), "editors for each node", name)
        _scales(axes, sorted(set().union(*(_loads(lines, each) for each in sizes))))
        if len([key for key in lines if key.nodes == nodes]) > 1 or nodes == sizes[0]:
            axes.legend(loc="upper left", fontsize=8, frameon=False, labelcolor=INK)
    save(figure, path)


def _subtitle(lines: Lines, nodes: int) -> str:
    most = max(_loads(lines, nodes))
    return f"keys that somebody waits for; up to {most * nodes:,} editors"


def _loads(lines: Lines, nodes: int) -> set[int]:
    return {each.per_node for key in lines if key.nodes == nodes for each in lines[key]}


def _line(axes: Axes, key: Key, points: Sequence[Point]) -> None:
    """Medians of the seeds, the least and the most of them as a band, and the knee."""
    colour, mark = _LOOKS[key.policy]
    curves = loads_of(points)
    loads = sorted(curves)
    waits = [[each.waited for each in curves[load]] for load in loads]
    middle = [median(each) for each in waits]
    low, high = [min(each) for each in waits], [max(each) for each in waits]
    axes.fill_between(loads, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(
        loads, middle, color=colour, marker=mark, markersize=5, linewidth=1.8, zorder=3,
        label=_NAMES[key.policy],
    )  # fmt: skip
    found = knee(points)
    if key.policy == "affinity" and found and np.isfinite(found):
        at = float(np.exp(np.interp(np.log(found), np.log(loads), np.log(middle))))
        axes.scatter([found], [at], s=170, facecolors="none", edgecolors=INK, zorder=4)
        axes.annotate(
            f"knee: {found:.0f}", (found, at), xytext=(9, -13), textcoords="offset points",
            fontsize=9, color=INK,
        )  # fmt: skip


def _bounds(axes: Axes) -> None:
    for bound in BOUNDS:
        axes.axhline(bound, color=MUTED, linewidth=0.9, linestyle=(0, (4, 4)), zorder=1)


def _scales(axes: Axes, loads: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(loads, [str(load) for load in loads])
    ticks = (*BOUNDS, 2, 5, 10, 20, 40)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_ylim(_LEAST, _MOST)
    axes.set_xlim(0.85 * loads[0], 1.15 * loads[-1])
    axes.minorticks_off()


def plot_events(courses: Sequence[Course], titles: dict[str, str], path: Path) -> None:
    """Draw a column for each event: waiting, and below it the requests of the node that restarts
    or is new, the mean of the seeds and what is between their quartiles; write it.
    """
    figure = new_figure()
    figure.set_size_inches(10, 6.4)
    grid = figure.subplots(2, len(titles), sharex=True, sharey="row", squeeze=False)
    for (upper, lower), (event, title) in zip(grid.T, titles.items(), strict=True):
        for course in courses:
            if course.event == event:
                _course(upper, course, course.tails)
                _course(lower, course, course.shares)
            elif course.event == NOTHING:
                _without(upper, course)
        for axes in (upper, lower):
            axes.axvline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 4)), zorder=1)
        first = event == next(iter(titles))
        told = "time to the first token, p95 of keys that somebody waits for"
        dress(upper, title, told, "", "seconds" if first else "")
        told = "requests of this node, of a mean node's"
        dress(lower, "", told, "seconds after the event", "share" if first else "")
        upper.legend(loc="lower right", fontsize=8, frameon=False, labelcolor=INK)
    for axes in grid[:, 0]:
        axes.set_ylim(0, None)  # of all columns, which are drawn by now
    save(figure, path)


def _without(axes: Axes, course: Course) -> None:
    """What is without any event, of the same seeds."""
    axes.plot(
        course.times, np.mean(course.tails, axis=0), color=INK, linewidth=1.4, zorder=4,
        linestyle=(0, (2, 2)), label="affinity, without the event",
    )  # fmt: skip


def _course(axes: Axes, course: Course, values: Sequence[Sequence[float]]) -> None:
    colour, mark = _LOOKS[course.policy]
    low, high = np.percentile(values, (25, 75), axis=0)
    axes.fill_between(course.times, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(
        course.times, np.mean(values, axis=0), color=colour, marker=mark, markersize=4,
        linewidth=1.8, label=_NAMES[course.policy],
    )  # fmt: skip
