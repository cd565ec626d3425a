"""Milliseconds of a decoded token over the context, a line for each engine: needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sc2onnx.bench.quartiles import Quartiles
from sc2onnx.bench.report import Report, Row
from sc2onnx.errors import RequestError
from sc2onnx.plotting import COLOURS, INK, MUTED, dress, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKS: Final = "osD^vPX*"
_APART: Final = 1.25
"""Of two names, in heights of one."""


def plot(report: Report, path: Path) -> None:
    """Draw medians, the quartiles as a band around them, and what reading the weights alone would
    take; write it to ``path``.

    Raises :class:`RequestError` if no engine was measured.
    """
    if not report.rows:
        raise RequestError(f"no engine was measured, there is nothing to draw in {path}")
    figure = new_figure()
    axes = figure.add_subplot()
    for row, colour, mark in zip(report.rows, cycle(COLOURS), cycle(_MARKS), strict=False):
        _draw(axes, report, row, colour, mark)
    contexts = sorted(task.context for task in report.tasks if task.kind == "decode")
    axes.set_xscale("log", base=2)
    axes.set_xticks(contexts, [f"{context:,}" for context in contexts])
    axes.minorticks_off()
    highest = max(found.median for row in report.rows for _, found in _points(row))
    # one disturbed round must not press all lines to the floor
    axes.set_ylim(0, min(axes.get_ylim()[1], 2 * highest))
    subtitle = (
        f"{report.threads} threads, {report.repeat} rounds: median, quartiles; dashed: reading the "
        f"weights at {report.read_rate / 1e9:.1f} GB/s"
    )
    dress(
        axes,
        "Time of a decoded token",
        subtitle,
        "context (tokens)",
        "ms per token, lower is better",
    )
    _label(figure, axes, report)
    save(figure, path)


def _draw(axes: Axes, report: Report, row: Row, colour: str, mark: str) -> None:
    points = _points(row)
    contexts = [context for context, _ in points]
    axes.fill_between(
        contexts,
        [found.low for _, found in points],
        [found.high for _, found in points],
        color=colour,
        alpha=0.18,
        linewidth=0,
    )
    axes.plot(
        contexts,
        [found.median for _, found in points],
        color=colour,
        marker=mark,
        markersize=6,
        linewidth=1.8,
        zorder=3,
    )
    axes.axhline(
        1e3 * row.weights_read / report.read_rate,
        color=colour,
        linewidth=0.9,
        linestyle=(0, (4, 4)),
        alpha=0.7,
        zorder=1,
    )


def _points(row: Row) -> list[tuple[int, Quartiles]]:
    """Context and milliseconds, by context."""
    return sorted(
        (task.context, Quartiles.of([1e3 * value for value in seconds]))
        for task, seconds in row.seconds.items()
        if task.kind == "decode"
    )


def _label(figure: Figure, axes: Axes, report: Report) -> None:
    """A name at the end of each line, moved up where it would cover the one below."""
    ends = [
        (_points(row)[-1], row.name, colour)
        for row, colour in zip(report.rows, cycle(COLOURS), strict=False)
    ]
    ends.sort(key=lambda end: end[0][1].median)
    figure.draw_without_rendering()  # lays it out: only now are positions known
    heights = [
        float(axes.transData.transform((context, found.median))[1]) * 72 / figure.dpi
        for (context, found), _, _ in ends
    ]
    for ((context, found), name, colour), height, place in zip(
        ends, heights, apart(heights, 9 * _APART), strict=True
    ):
        axes.annotate(
            name,
            (context, found.median),
            xytext=(9, place - height),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=colour if colour != MUTED else INK,
            annotation_clip=False,
        )


def apart(heights: Sequence[float], least: float) -> list[float]:
    """Ascending heights, each moved up to ``least`` above the one before: 0, 1,
    30 and 10 give 0, 10, 30.
    """
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + least) if placed else height)
    return placed
