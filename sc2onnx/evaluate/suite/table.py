"""The suite's scores as lines for a person."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Final

from sc2onnx.evaluate.interval import Estimate
from sc2onnx.evaluate.suite.scores import ModelScore, SuiteReport, TaskScore
from sc2onnx.tables import aligned


def lines(report: SuiteReport) -> list[str]:
    """What was asked, then a row for each task and model; columns that nothing fills are left
    out.
    """
    rows = [
        (model, task)
        for number in range(len(report.models[0].tasks))
        for model in report.models
        for task in (model.tasks[number],)
    ]
    columns = [[heading, *(cell(*row) for row in rows)] for heading, cell in COLUMNS.items()]
    kept = [column for column in columns if any(column[1:])]
    table = list(zip(*kept, strict=True))
    return [*_about(report), "", *aligned(table, left=(0, 1))]


def _about(report: SuiteReport) -> list[str]:
    tasks = report.models[0].tasks
    asked = ", ".join(f"{task.questions} {task.task} (drawn by {task.resampled})" for task in tasks)
    texts = [model.name for model in report.models if model.asked == "text"]
    return [
        f"suite: {asked}; seed {report.seed}, prompts of up to {report.length:,} tokens",
        f"in brackets 95 % intervals; more: than {report.base}, paired",
        *([f"asked with texts, not with the same tokens: {', '.join(texts)}"] if texts else []),
    ]


def shown(estimate: Estimate | None, scale: float, form: str) -> str:
    """A figure and its interval: ``21.0 [14.0, 29.0]``."""
    if estimate is None:
        return ""
    value, low, high = (
        format(scale * each, form) if isfinite(each) else ""
        for each in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]" if low and high else value


def _figure(measure: str, scale: float, form: str) -> Callable[[ModelScore, TaskScore], str]:
    return lambda model, task: shown(task.means.get(measure), scale, form)


def _above(measure: str, scale: float, form: str) -> Callable[[ModelScore, TaskScore], str]:
    return lambda model, task: shown(task.above.get(measure), scale, form)


COLUMNS: Final[Mapping[str, Callable[[ModelScore, TaskScore], str]]] = {
    "task": lambda model, task: task.task,
    "model": lambda model, task: model.name,
    "GB": lambda model, task: f"{model.weight_bytes / 1e9:.4g}" if model.weight_bytes else "",
    "exact %": _figure("exact", 100, ".1f"),
    "more exact": _above("exact", 100, "+.1f"),
    "edit": _figure("edit", 1, ".3f"),
    "more edit": _above("edit", 1, "+.3f"),
    "pass@1 %": _figure("passed", 100, ".1f"),
    "more pass@1": _above("passed", 100, "+.1f"),
}
"""Heading -> what a row has there."""
