"""Figures of one model -> a row; rows -> a Markdown table and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite

from sc2onnx.bench.report import Missing

YARDSTICK = "llama.cpp Q4_K_M"
"""What every divergence is divided by in the table."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one model, means over the positions.
    ``kl``: nats, torch fp32 to this model. ``size``: bytes of weights.
    """

    name: str
    kl: float
    top1: float
    nll: float
    size: int
    bits: float


def render(rows: Sequence[Row | Missing]) -> str:
    """The table in Markdown. Without the yardstick its column holds dashes."""
    yard = next((row.kl for row in rows if isinstance(row, Row) and row.name == YARDSTICK), None)
    head = [
        "| weights | KL to torch fp32 | x Q4_K_M | top-1 | NLL | bits per weight | GB |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join(head + [_line(row, yard) for row in rows])


def records(rows: Sequence[Row | Missing]) -> list[dict[str, object]]:
    """The rows for JSON, unrounded; a figure that is not a number is None, as JSON wants it."""
    return [
        {
            key: None if isinstance(value, float) and not isfinite(value) else value
            for key, value in asdict(row).items()
        }
        for row in rows
    ]


def _line(row: Row | Missing, yard: float | None) -> str:
    if isinstance(row, Missing):
        return f"| {row.name} | not available: {row.reason} | | | | | |"
    ratio = f"{row.kl / yard:.2f}" if yard else "-"
    kl = f"{row.kl:.5f}" if row.kl >= 1e-5 or row.kl == 0 else f"{row.kl:.1e}"
    return (
        f"| {row.name} | {kl} | {ratio} | {row.top1:.4f} | {row.nll:.4f} | {row.bits:.2f} | "
        f"{row.size / 1e9:.4g} |"
    )
