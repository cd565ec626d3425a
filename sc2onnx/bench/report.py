"""What a benchmark found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sc2onnx.bench.process_cost import ProcessCost
from sc2onnx.bench.quartiles import Quartiles
from sc2onnx.bench.task import Task


@dataclass(frozen=True, slots=True)
class Row:
    """One engine. ``seconds``: of each task, by round; the rounds of all rows belong together.

    ``weights_read``: bytes of weights that a decoded token reads; ``cost`` is None
    where it was not measured.
    """

    name: str
    weights_read: int
    cost: ProcessCost | None
    seconds: Mapping[Task, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Missing:
    """An engine that could not be measured, and why, in one line."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything. ``read_rate``: bytes per second that ``threads`` read of the machine's memory, or
    that a GPU moves, copying within its own; the first row is what others are compared with.

    ``deepest``: tokens of context at which memory was measured; ``real_prefill``: whether our own
    engines computed the tokens before.
    """

    rows: tuple[Row, ...]
    missing: tuple[Missing, ...]
    tasks: tuple[Task, ...]
    threads: int
    repeat: int
    read_rate: float
    deepest: int
    real_prefill: bool
    device: str = "cpu"

    @property
    def machine(self) -> str:
        """What computed, and how fast it moves memory."""
        if self.device == "cpu":
            return f"{self.threads} threads, which read {self.read_rate / 1e9:.1f} GB/s"
        return f"{self.device}, which reads and writes {self.read_rate / 1e9:.0f} GB/s"

    def share(self, row: Row, task: Task) -> float:
        """Part of the machine's read rate at which a decode reads its weights; the cache, which it
        reads as well, is not counted.
        """
        return row.weights_read / Quartiles.of(row.seconds[task]).median / self.read_rate

    def figures(self) -> dict[str, Any]:
        """For JSON: every round, and their quartiles."""
        rows = [
            {
                "name": row.name,
                "weights_read": row.weights_read,
                "alone": row.cost and asdict(row.cost),
                "tasks": [
                    self._timing(row, task, seconds) for task, seconds in row.seconds.items()
                ],
            }
            for row in self.rows
        ]
        facts = {
            name: getattr(self, name)
            for name in ("threads", "repeat", "read_rate", "deepest", "real_prefill", "device")
        }
        return {**facts, "rows": rows, "missing": [asdict(missing) for missing in self.missing]}

    def _timing(self, row: Row, task: Task, seconds: tuple[float, ...]) -> dict[str, Any]:
        share = {"share_of_read_rate": self.share(row, task)} if task.kind == "decode" else {}
        return {**asdict(task), **asdict(Quartiles.of(seconds)), "seconds": list(seconds), **share}


def one_line(error: BaseException) -> str:
    """Kind and first line of an error, cut to what fits a table, without the bar that would end a
    cell and without directories.
    """
    lines = re.sub(r"(?<![\w.:/])/(?:[^\s/'\"]+/)+", "", str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}".replace("|", "/")[:200]
