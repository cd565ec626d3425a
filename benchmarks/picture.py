"""The picture of the README, drawn from the figures of the documents, which are its one source.

    python benchmarks/picture.py docs/at-a-glance.png

Three panels at the 3B shape in int4, beside llama.cpp and OpenVINO: milliseconds of a token over
context and seconds of a prompt (docs/measurements.md), and the first token after a keystroke
(docs/decisions/0017-serving.md). Needs matplotlib (the extra ``evaluate``).
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
SPEED = ROOT / "docs" / "measurements.md"
SERVING = ROOT / "docs" / "decisions" / "0017-serving.md"
NAMES = ("sc2onnx", "sc2onnx without the kernels", "llama.cpp Q4_0", "OpenVINO int4")
COLOURS = ("#3f51b5", "#9fa8da", "#e65100", "#00897b")
PROMPT = 512
KEYSTROKES = {
    "`sc2onnx serve`": "sc2onnx serve",
    "`llama-server --spm-infill`": "llama-server\n--spm-infill",
    "`llama-server`": "llama-server",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """What is drawn: one value for each of ``NAMES``, and milliseconds by server."""

    decode: dict[int, tuple[float, ...]]
    """Tokens of context -> milliseconds of a token."""
    prompt: tuple[float, ...]
    """Seconds of a prompt of ``PROMPT`` tokens."""
    keystroke: dict[str, float]
    """Server -> milliseconds to the first token, the median."""


def figures() -> Figures:
    """Read them from the documents; a ValueError where a row is not found."""
    heading = "| in turns, 44 GB/s |"
    speed = SPEED.read_text(encoding="utf-8").split(heading)[1].split("\n\n")[0]
    decode = {_number(name): _values(cells) for name, cells in _rows(speed, "decode at ")}
    (prefill,) = (_values(cells) for _, cells in _rows(speed, f"prefill of {PROMPT}"))
    keystroke = {}
    for row, name in KEYSTROKES.items():
        found = re.search(rf"^\| {re.escape(row)} \| [^|]* \| ([\d,]+) ms", _text(SERVING), re.M)
        if found is None:
            raise ValueError(f"{SERVING} has no row {row}: correct the name of it")
        keystroke[name] = float(found[1].replace(",", ""))
    return Figures(decode, tuple(PROMPT / rate for rate in prefill), keystroke)


def draw(found: Figures, path: Path) -> None:
    """Draw the three panels into a file."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    lines = zip(*found.decode.values(), strict=True)
    for name, colour, values in zip(NAMES, COLOURS, lines, strict=True):
        left.plot(list(found.decode), values, "o-", color=colour, label=name, markersize=4)
    left.set(title="A token, ms, over tokens of context", ylim=(0, None))
    left.set_xticks(ticks := [0, 4096, 8192, 16384], [f"{tokens:,}" for tokens in ticks])
    left.legend(frameon=False, fontsize=8)
    colours = (COLOURS[0], COLOURS[2], COLOURS[2])
    labels = [f"{value:,.0f} ms" for value in found.keystroke.values()]
    bars = middle.barh(list(found.keystroke), list(found.keystroke.values()), color=colours)
    middle.bar_label(bars, labels, padding=4)
    middle.set(title="First token after a keystroke, ms (median)", xlim=(0, 9000))
    bars = right.barh(NAMES, found.prompt, color=COLOURS)
    right.bar_label(bars, [f"{value:.1f} s" for value in found.prompt], padding=4)
    right.set(title=f"A prompt of {PROMPT} tokens, s", xlim=(0, 1.2 * max(found.prompt)))
    for axes in (middle, right):
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
    figure.savefig(path, dpi=110)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _rows(table: str, start: str) -> list[tuple[str, str]]:
    return re.findall(rf"^\| ({re.escape(start)}[^|]*) \| (.*) \|$", table, re.M)


def _values(cells: str) -> tuple[float, ...]:
    return tuple(float(cell) for cell in cells.split(" | "))


def _number(name: str) -> int:
    return int(re.sub(r"\D", "", name))


if __name__ == "__main__":
    draw(figures(), Path(sys.argv[1]))
