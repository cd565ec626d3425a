"""What the suite found: answers, and each model's share of right ones with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sc2onnx.evaluate.interval import Draws, Estimate, Groups
from sc2onnx.evaluate.suite.hole import TASKS, Hole, Task

MEASURES: Final = ("exact", "edit", "passed")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote into a hole. ``exact``: whether that is what stood there, blanks at line
    ends aside; ``edit``: 1 - Levenshtein distance / length of the longer; ``passed``: whether the
    code then passes its tests, None where there are none.
    """

    task: Task
    file: str
    truth: str
    text: str
    exact: bool
    edit: float
    passed: bool | None = None


@dataclass(frozen=True, slots=True)
class TaskScore:
    """A model on the questions of a task: means of :data:`MEASURES` by their names, and how much
    each is above that of the model that all are compared with (none for that one).
    """

    task: Task
    questions: int
    resampled: str
    means: Mapping[str, Estimate]
    above: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class ModelScore:
    """A model on the suite. ``asked``: with the same tokens as all others, or with texts of which
    its server makes tokens. ``weight_bytes``: 0 where a server does not say.
    """

    name: str
    precision: str
    weight_bytes: int
    asked: str
    tasks: tuple[TaskScore, ...]
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class SuiteReport:
    """All models on the same questions. ``base``: the one that the others are compared with."""

    base: str
    seed: int
    length: int
    models: tuple[ModelScore, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """A model and its answers, in the order of the holes."""

    name: str
    precision: str
    weight_bytes: int
    asked: str
    answers: tuple[Answer, ...]


def scored(holes: Sequence[Hole], found: Sequence[Answered], seed: int, length: int) -> SuiteReport:
    """Every model's scores, and how far they are from the first one's. ``seed``: of the draws."""
    tasks = [task for task in TASKS if any(hole.task == task for hole in holes)]
    models = tuple(
        ModelScore(
            each.name,
            each.precision,
            each.weight_bytes,
            each.asked,
            tuple(
                _task(task, each, None if each is found[0] else found[0], seed) for task in tasks
            ),
            each.answers,
        )
        for each in found
    )
    return SuiteReport(found[0].name, seed, length, models)


def _task(task: Task, found: Answered, base: Answered | None, seed: int) -> TaskScore:
    answers = [answer for answer in found.answers if answer.task == task]
    groups = Groups.by_file([answer.file for answer in answers], "questions")
    if task == "programs" and groups.unit == "files":
        groups = replace(groups, unit="kinds")
    draws = Draws(groups, seed)
    means, above = dict[str, Estimate](), dict[str, Estimate]()
    for measure in MEASURES:
        if (values := _values(answers, measure)) is None:
            continue
        means[measure] = draws.mean(values)
        if base is not None:
            theirs = _values([each for each in base.answers if each.task == task], measure)
            assert theirs is not None
            above[measure] = draws.difference(values, theirs)
    return TaskScore(task, len(answers), groups.unit, means, above)


def _values(answers: Sequence[Answer], measure: str) -> list[float] | None:
    values = [getattr(answer, measure) for answer in answers]
    return None if None in values else [float(value) for value in values]
