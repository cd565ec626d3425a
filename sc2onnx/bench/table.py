"""A report as tables for a person: measures down, engines across."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from sc2onnx import tables
from sc2onnx.bench.quartiles import Quartiles, ratio
from sc2onnx.bench.report import Report, Row
from sc2onnx.bench.task import Task
from sc2onnx.tables import Cells

_NONE: Final = "-"


def lines(report: Report) -> list[str]:
    """Tables in plain text, for a terminal."""
    return _told(
        report,
        [measures(report), ratios(report, report.rows[0]) if report.rows else []],
        tables.aligned,
    )


def markdown(report: Report, ours: int = 1) -> list[str]:
    """The same in Markdown; each of the first ``ours`` engines is compared with the others."""
    return _told(
        report,
        [measures(report), *(ratios(report, row) for row in report.rows[:ours])],
        tables.markdown,
    )


def _told(report: Report, parts: Sequence[Cells], shape: Callable[[Cells], list[str]]) -> list[str]:
    missing = [
        part
        for missing in report.missing
        for part in ("", f"{missing.name}: not measured, {missing.reason}")
    ]
    return [
        about(report),
        *(part for cells in parts if cells for part in ("", *shape(cells))),
        *missing,
    ]


def about(report: Report) -> str:
    """How it was measured."""
    placed = (
        "the tokens before were computed"
        if report.real_prefill
        else "our own engines were placed at their context, not computed up to it"
    )
    return f"{report.machine}; {report.repeat} rounds in turns: median (quartiles); {placed}"


def measures(report: Report) -> Cells:
    """Heading and rows: what each engine takes."""
    described: list[tuple[str, Callable[[Row], str]]] = [
        ("weights read per token (GB)", lambda row: f"{row.weights_read / 1e9:.3f}"),
        ("load, warm (s)", lambda row: f"{row.cost.load:.2f}" if row.cost else _NONE),
        (
            f"peak memory at {report.deepest:,} (GB)",
            lambda row: _gigabytes(row.cost.peak if row.cost else None),
        ),
        ("of it private (GB)", lambda row: _gigabytes(row.cost.private if row.cost else None)),
    ]
    cells = [
        ["", *(row.name for row in report.rows)],
        *([name, *map(cell, report.rows)] for name, cell in described),
    ]
    for task in sorted(report.tasks, key=_order):
        cells.append([_label(task), *(_timing(task, row.seconds[task]) for row in report.rows)])
        if task.kind == "decode":
            cells.append(
                [
                    "  share of the read rate",
                    *(f"{report.share(row, task):.0%}" for row in report.rows),
                ]
            )
    return cells


def ratios(report: Report, of: Row) -> Cells:
    """Heading and rows: seconds of one engine over those of each other; below 1 it is faster.
    Empty where there is no other.
    """
    others = [row for row in report.rows if row is not of]
    if not others:
        return []
    cells = [[f"time of {of.name} over that of", *(row.name for row in others)]]
    for task in sorted(report.tasks, key=_order):
        found = [ratio(of.seconds[task], row.seconds[task]) for row in others]
        cells.append([str(task), *(_shown(each, 2, "x") for each in found)])
    return cells


def _order(task: Task) -> tuple[int, int, int]:
    return ("first token", "prefill", "decode", "step").index(task.kind), task.context, task.tokens


def _label(task: Task) -> str:
    return f"{task} ({'tokens/s' if task.kind == 'prefill' else 'ms'})"


def _timing(task: Task, seconds: Sequence[float]) -> str:
    if task.kind == "prefill":
        return _shown(Quartiles.of([task.tokens / value for value in seconds]), 1)
    return _shown(Quartiles.of([1e3 * value for value in seconds]), 1)


def _shown(found: Quartiles, digits: int, unit: str = "") -> str:
    return f"{found.median:,.{digits}f}{unit} ({found.low:,.{digits}f} - {found.high:,.{digits}f})"


def _gigabytes(nbytes: int | None) -> str:
    return _NONE if nbytes is None else f"{nbytes / 1e9:.2f}"
