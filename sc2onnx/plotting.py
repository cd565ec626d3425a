"""What our pictures have in common: paper, ink, file formats.
Needs matplotlib, and says so where it is missing.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sc2onnx.bundle.files import replace_bytes
from sc2onnx.errors import MissingDependencyError, RequestError
from sc2onnx.hints import install

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS: Final = (".png", ".svg", ".pdf")
INK: Final = "#22272e"
MUTED: Final = "#6b7580"
COLOURS: Final = (
    "#1f6fb4",
    "#d1495b",
    "#2a9d6f",
    "#e09f1f",
    "#7a5cc0",
    "#3aa6c9",
    "#8c6d46",
    "#6b7580",
)
"""Of lines, in turn; they differ in lightness as well."""


def check_plot(path: Path) -> None:
    """Raise :class:`RequestError` for a name that is no picture's,
    :class:`MissingDependencyError` without matplotlib.
    """
    if path.suffix.lower() not in FORMATS:
        raise RequestError(f"--plot is {path}, expected a name that ends in {', '.join(FORMATS)}")
    new_figure()


def new_figure() -> Figure:
    """White paper. Raises :class:`MissingDependencyError`."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"plotting needs the package {error.name}: {install('evaluate')}"
        ) from error
    return Figure(figsize=(8, 5), dpi=150, layout="constrained", facecolor="white")


def dress(axes: Axes, title: str, subtitle: str, across: str, up: str) -> None:
    """Titles, names of both axes, grid and spines."""
    axes.set_title(f"{title}\n", loc="left", color=INK, fontsize=12, fontweight="bold")
    axes.text(0, 1.02, subtitle, transform=axes.transAxes, color=MUTED, fontsize=9)
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)
    axes.grid(color="#e3e6e9", linewidth=0.8, zorder=0)
    axes.tick_params(colors=MUTED, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b8bfc6")


def save(figure: Figure, path: Path) -> None:
    """Write it, whole or not at all, in the format of the name, a PNG without the name
    and version of who drew it.

    Raises :class:`OSError`.
    """
    drawn, kind = BytesIO(), path.suffix.lower().removeprefix(".")
    figure.savefig(drawn, format=kind, metadata={"Software": None} if kind == "png" else None)
    replace_bytes(path, drawn.getvalue())
