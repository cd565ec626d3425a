"""A hole in code: what a model is asked to write, and what stood there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Task = Literal["lines", "expressions", "blocks", "programs"]

CUT: Final[tuple[Task, ...]] = ("lines", "expressions", "blocks")
"""Tasks cut out of files, of which nothing is executed."""

TASKS: Final[tuple[Task, ...]] = (*CUT, "programs")


@dataclass(frozen=True, slots=True)
class Hole:
    """``prefix + truth + suffix`` is the code. ``file``: where it is from, or the kind of program.
    ``tests``: a program that fails unless the code before it works; None where nothing is run.
    """

    task: Task
    file: str
    prefix: str
    truth: str
    suffix: str
    tests: str | None = None
