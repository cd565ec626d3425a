"""Quality over size, as a picture: needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sc2onnx.errors import RequestError
from sc2onnx.evaluate.report import Report, Score
from sc2onnx.evaluate.table import measured_on
from sc2onnx.plotting import COLOURS, INK, dress, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FLOOR: Final = 1e-8
"""Nats: above the rounding of fp32 logits, far below any quantisation.
What is below is drawn here, for the sake of the scale.
"""

_DECADE: Final = 10.0
_PLACES: Final = (
    (8, 0, "left", "center"),
    (0, 8, "center", "bottom"),
    (0, -8, "center", "top"),
    (-8, 0, "right", "center"),
)
_PLACES_FAR: Final = (
    (8, 12, "left", "bottom"),
    (8, -12, "left", "top"),
    (-8, 12, "right", "bottom"),
    (-8, -12, "right", "top"),
)


def plot(report: Report, path: Path) -> None:
    """Draw KL divergence to the reference, or NLL where there is none, over the bundles'
    weights; write it to ``path``.

    Bundles whose figure is not finite are left out. Raises
    :class:`RequestError` if that leaves none.
    """
    scores = [score for score in report.scores if isfinite(_height(score))]
    if not scores:
        raise RequestError(
            f"no bundle has a finite figure, there is nothing to draw in {path}: verify the bundles"
        )
    figure = new_figure()
    axes = figure.add_subplot()
    unit, factor = _unit(scores)
    points = [(score.about.weight_bytes / factor, _height(score)) for score in scores]
    sizes, heights = zip(*points, strict=True)
    axes.scatter(sizes, heights, s=46, color=COLOURS[0], zorder=3, clip_on=False)
    scale_axes(axes, points, logarithmic=report.reference is not None)
    _decorate(axes, report, unit)
    label_points(figure, axes, points, [_text(score) for score in scores])
    save(figure, path)


def _height(score: Score) -> float:
    """NaN stays NaN: it is not less than the floor."""
    if score.difference is None:
        return score.nll
    return _FLOOR if score.difference.kl_divergence < _FLOOR else score.difference.kl_divergence


def _unit(scores: Sequence[Score]) -> tuple[str, float]:
    """Name and bytes of the unit that suits the largest."""
    return ("GB", 1e9) if max(score.about.weight_bytes for score in scores) >= 1e8 else ("MB", 1e6)


def _text(score: Score) -> str:
    about = score.about
    named = about.name if about.precision in about.name else f"{about.name} ({about.precision})"
    return named + (
        ", below 1e-8" if score.difference and score.difference.kl_divergence < _FLOOR else ""
    )


def scale_axes(axes: Axes, points: Sequence[tuple[float, float]], *, logarithmic: bool) -> None:
    """Sizes from 0; divergences by decades where they span one, with room at both ends."""
    sizes, heights = zip(*points, strict=True)
    lowest, highest = min(heights), max(heights)
    axes.set_xlim(0, 1.15 * max(sizes))
    if logarithmic and highest > _DECADE * lowest:
        axes.set_yscale("log")
        axes.set_ylim(lowest / 3, highest * 3)
    else:
        room = 0.25 * (highest - lowest) or 0.05 * abs(highest) or 1.0
        axes.set_ylim(lowest - room, highest + room)


def _decorate(axes: Axes, report: Report, unit: str) -> None:
    reference = report.reference
    measure = f"KL divergence to {reference.about.name}" if reference else "Negative log-likelihood"
    subtitle = f"{measured_on(report)}, windows of {report.length:,} tokens"
    up = f"{'KL divergence' if reference else 'NLL'} (nats per token), lower is better"
    dress(axes, f"{measure} over size", subtitle, f"weights ({unit})", up)


def label_points(
    figure: Figure, axes: Axes, points: Sequence[tuple[float, float]], texts: Sequence[str]
) -> None:
    """A name beside each point: the first place where it covers no other name and no
    point and stays on the paper.
    """
    figure.draw_without_rendering()  # lays it out: only now are positions known
    taken = [_around(axes.transData.transform(point)) for point in points]
    for point, text in zip(points, texts, strict=True):
        box = None
        for place in (*_PLACES, *_PLACES_FAR):
            label = _annotate(axes, point, text, place)
            box = label.get_window_extent()
            if _inside(box, figure.bbox) and not any(box.overlaps(other) for other in taken):
                break
            label.remove()
        else:  # nowhere is free: better covered than missing
            box = _annotate(axes, point, text, _PLACES[0]).get_window_extent()
        taken.append(box)


def _annotate(
    axes: Axes, point: tuple[float, float], text: str, place: tuple[float, float, str, str]
) -> Any:
    right, up, horizontal, vertical = place
    style: dict[str, Any] = {"ha": horizontal, "va": vertical, "fontsize": 9, "color": INK}
    return axes.annotate(
        text, point, xytext=(right, up), textcoords="offset points", annotation_clip=False, **style
    )


def _around(centre: Any) -> Any:
    from matplotlib.transforms import Bbox

    return Bbox.from_extents(*(centre - 8), *(centre + 8))


def _inside(box: Any, paper: Any) -> bool:
    return bool(
        box.x0 >= paper.x0 and box.x1 <= paper.x1 and box.y0 >= paper.y0 and box.y1 <= paper.y1
    )
