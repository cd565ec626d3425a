"""Figures of one model -> a row; rows -> a Markdown table and JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, nan

from sc2onnx.bench.report import Missing

YARDSTICK = "llama.cpp Q4_K_M"
"""What every divergence is divided by in the table."""


Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one model, means over the positions.
    ``kl``: nats, torch fp32 to this model. ``size``: bytes of weights. ``interval``: of ``kl``,
    95 %; ``ratio``: of ``kl`` over the yardstick's.
    """

    name: str
    kl: float
    top1: float
    nll: float
    size: int
    bits: float
    interval: Interval = (nan, nan)
    ratio: Interval = (nan, nan)


def render(rows: Sequence[Row | Missing]) -> str:
    """The table in Markdown. Without the yardstick its column holds dashes."""
    yard = next((row.kl for row in rows if isinstance(row, Row) and row.name == YARDSTICK), None)
    head = [
        "| weights | KL to torch fp32 | 95 % | x Q4_K_M | 95 % | top-1 | NLL | bits per weight "
        "| GB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join(head + [_line(row, yard) for row in rows])


def records(rows: Sequence[Row | Missing]) -> list[dict[str, object]]:
    """The rows for JSON, unrounded; a figure that is not a number is None, as JSON wants it."""
    return [
        {
            key: [_finite(each) for each in value] if isinstance(value, tuple) else _finite(value)
            for key, value in asdict(row).items()
        }
        for row in rows
    ]


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not isfinite(value) else value


def _line(row: Row | Missing, yard: float | None) -> str:
    if isinstance(row, Missing):
        return f"| {row.name} | not available: {row.reason} | | | | | | | |"
    ratio = f"{row.kl / yard:.2f}" if yard else "-"
    kl, between = _nats(row.kl), _between(row.interval, _nats)
    times = _between(row.ratio, "{:.2f}".format) if yard and yard != row.kl else "-"
    return (
        f"| {row.name} | {kl} | {between} | {ratio} | {times} | {row.top1:.4f} | {row.nll:.4f} | "
        f"{row.bits:.2f} | {row.size / 1e9:.4g} |"
    )


def _nats(kl: float) -> str:
    return f"{kl:.5f}" if kl >= 1e-5 or kl == 0 else f"{kl:.1e}"


def _between(interval: Interval, form: Callable[[float], str]) -> str:
    low, high = interval
    return f"{form(low)} to {form(high)}" if isfinite(low) and low < high else "-"
