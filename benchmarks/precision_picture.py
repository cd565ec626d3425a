"""The picture of docs/choose-a-precision.md, drawn from docs/quality.md, its one source.

    python benchmarks/precision_picture.py docs/precisions.png

Divergence over size, ours and llama.cpp's types: the table of divergences (as
``benchmarks/quality.py`` prints it, with intervals or without) and that of sizes at the 3B shape.
Needs matplotlib (the extra ``evaluate``).
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.transforms import Bbox

from sc2onnx.plotting import COLOURS, dress, new_figure, save

SOURCE = Path(__file__).parent.parent / "docs" / "quality.md"
MAKERS = ("sc2onnx", "llama.cpp")
_PLACES = {
    "sc2onnx": ((-5, -5), (5, -5), (-8, 0), (8, 0)),
    "llama.cpp": ((5, 5), (-8, 0), (-5, 5), (8, 0)),
}
"""Where a name may be, in points to the right and up."""

DIVERGENCE = "KL to torch fp32"
BETWEEN = "95 %"
SIZE = "GB at the 3B shape"


@dataclass(frozen=True, slots=True)
class Point:
    """A way to store weights. ``size``: GB at the 3B shape; ``divergence``: nats, measured between
    ``low`` and ``high``, which are the same where no interval was measured.
    """

    maker: str
    name: str
    size: float
    divergence: float
    low: float
    high: float


def points(text: str) -> list[Point]:
    """Every row that both tables of a document have; a ValueError if there are fewer than four."""
    sizes = {row["weights"]: float(row[SIZE]) for row in _table(text, SIZE)}
    found = []
    for row in _table(text, DIVERGENCE):
        maker, _, name = row["weights"].partition(" ")
        if maker in MAKERS and row["weights"] in sizes:
            value = float(row[DIVERGENCE])
            between = re.findall(r"[\d.e-]+", row.get(BETWEEN, "").replace("to", " "))
            low, high = map(float, between) if len(between) == 2 else (value, value)
            found.append(Point(maker, name, sizes[row["weights"]], value, low, high))
    if len(found) < 4:
        raise ValueError(
            f"the document has {len(found)} rows in both tables, expected four or more"
        )
    return found


def draw(found: list[Point], path: Path) -> None:
    """Draw divergence over size into a file."""
    figure = new_figure()
    axes = figure.add_subplot()
    for maker, colour in zip(MAKERS, COLOURS, strict=False):
        mine = sorted((each for each in found if each.maker == maker), key=lambda each: each.size)
        sizes, values = [each.size for each in mine], [each.divergence for each in mine]
        lows = [each.divergence - each.low for each in mine]
        highs = [each.high - each.divergence for each in mine]
        axes.errorbar(sizes, values, (lows, highs), fmt="none", ecolor=colour, alpha=0.6)
        axes.plot(sizes, values, "o:", color=colour, label=maker, zorder=3, linewidth=1)
    axes.set_yscale("log")
    axes.set_xlim(0.88 * min(each.size for each in found), 1.08 * max(each.size for each in found))
    values = [each.divergence for each in found]
    axes.set_ylim(min(values) / 2, max(values) * 2)
    up = "KL divergence to the original (nats per token)"
    told = "lower is nearer to the original, left is smaller and faster"
    dress(axes, "What each precision costs", told, "weights at the 3B shape (GB)", up)
    axes.legend(frameon=False, loc="upper right")
    _label(figure, axes, found)
    save(figure, path)


def _label(figure: Any, axes: Any, found: list[Point]) -> None:
    """A name at each point in its maker's colour: above llama.cpp's points and below ours, or to
    the left, where others are in the way.
    """
    figure.draw_without_rendering()  # lays it out: only now are positions known
    dots = [axes.transData.transform((each.size, each.divergence)) for each in found]
    taken = [Bbox.from_extents(*(dot - 9), *(dot + 9)) for dot in dots]
    for each in found:
        colour = COLOURS[MAKERS.index(each.maker)]
        for right, up in _PLACES[each.maker]:
            label = axes.annotate(
                each.name,
                (each.size, each.divergence),
                (right, up),
                textcoords="offset points",
                ha="left" if right > 0 else "right",
                va="center" if not up else "bottom" if up > 0 else "top",
                fontsize=9,
                color=colour,
            )
            box = label.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
            label.remove()
        taken.append(box)


def _table(text: str, heading: str) -> list[dict[str, str]]:
    """The rows of the first table that has a column of this name; the first of two columns of one
    name counts.
    """
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.M):
        head, _, *rows = (_cells(line) for line in block.strip().split("\n"))
        if heading in head:
            return [dict(reversed([*zip(head, row, strict=True)])) for row in rows]
    raise ValueError(f"the document has no table with a column {heading!r}")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


if __name__ == "__main__":
    draw(points(SOURCE.read_text(encoding="utf-8")), Path(sys.argv[1]))
