"""A report as lines for a person."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Final

from sc2onnx.evaluate.report import ReferenceScore, Report, Score
from sc2onnx.evaluate.suite.table import lines as suite_lines
from sc2onnx.tables import aligned

Row = Score | ReferenceScore


def lines(report: Report) -> list[str]:
    """What was measured on what, then a row for each bundle and the reference; columns that
    nothing fills are left out.
    """
    rows: list[Row] = [*report.scores, *([report.reference] if report.reference else [])]
    columns = [[heading, *(cell(row) for row in rows)] for heading, cell in COLUMNS.items()]
    filled = [[text or "" for text in column] for column in columns if any(column[1:])]
    table = list(zip(*filled, strict=True))
    suite = ["", *suite_lines(report.suite)] if report.suite else []
    return [*_about(report), "", *aligned(table, left=(0, 1)), *suite]


def measured_on(report: Report) -> str:
    """The text and how much of it."""
    named = report.files[0] if len(report.files) == 1 else f"{len(report.files)} files"
    return f"{named}, {report.positions:,} positions"


def _about(report: Report) -> list[str]:
    told = [
        (
            f"on {measured_on(report)} ({report.nbytes:,} bytes) in windows of up to "
            f"{report.length:,} tokens"
        )
    ]
    if any(isfinite(found.low) for score in report.scores for found in score.estimates.values()):
        told[0] += f"; intervals: {report.resampled} drawn again"
    infilled = report.scores[0].infill
    if infilled:
        told.append(f"infilling {infilled.spans} spans (seed {report.seed}, {report.order})")
    return told


def _name(row: Row) -> str:
    return f"{row.about.name} (reference)" if isinstance(row, ReferenceScore) else row.about.name


def _difference(name: str, style: str) -> Callable[[Row], str | None]:
    return lambda row: (
        _shown(getattr(row.difference, name), style)
        if isinstance(row, Score) and row.difference
        else None
    )


def _interval(name: str, style: str) -> Callable[[Row], str | None]:
    """Where 95 % of the draws are; None where nothing can be said of it."""

    def cell(row: Row) -> str | None:
        found = row.estimates.get(name) if isinstance(row, Score) else None
        if found is None or not isfinite(found.low):
            return None
        return f"[{found.low:{style}}, {found.high:{style}}]"

    return cell


def _infill(name: str, style: str) -> Callable[[Row], str | None]:
    return lambda row: _shown(getattr(row.infill, name), style) if row.infill else None


def _shown(value: float, style: str) -> str:
    return format(value, style) if isfinite(value) else "not finite"


COLUMNS: Final[Mapping[str, Callable[[Row], str | None]]] = {
    "bundle": _name,
    "precision": lambda row: row.about.precision,
    "GB": lambda row: f"{row.about.weight_bytes / 1e9:.3f}",
    "NLL": lambda row: _shown(row.nll, ".4f"),
    "ppl": lambda row: _shown(row.perplexity, ".3f"),
    "bits/byte": lambda row: _shown(row.bits_per_byte, ".4f"),
    "KL": _difference("kl_divergence", ".2e"),
    "KL 95 %": _interval("kl_divergence", ".2e"),
    "KL / first": _interval("kl_divergence_over_first", ".3f"),
    "top-1": _difference("top1_agreement", ".2%"),
    "top-5": _difference("top5_overlap", ".2%"),
    "FIM exact": _infill("exact_match", ".1%"),
    "FIM edit": _infill("edit_similarity", ".3f"),
}
"""Heading -> what a row has there, or None. The first two are words, the others numbers."""
