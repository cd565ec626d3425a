"""The table of ``plan``: what each precision takes to export and to run here.

What the export takes is the exporter's estimate, what running takes the runtime's arithmetic; only
the command line knows both.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from sc2onnx.bundle.facts import ModelFacts
from sc2onnx.bundle.targets import TARGETS
from sc2onnx.export.effort import calibration_seconds
from sc2onnx.export.estimate import Estimate, estimates, facts
from sc2onnx.runtime.memory import available
from sc2onnx.runtime.memory_need import MemoryNeed, memory_ahead

CONTEXTS: Final = (1024, 4096, 16384)
"""Tokens at which running is looked at, as far as the model's context goes."""

FEW_TOKENS: Final = 8192
"""A shorter text of calibration, to show what that saves."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Free bytes here; None where the operating system does not tell."""

    memory: int | None
    disk: int | None

    @classmethod
    def here(cls) -> Machine:
        """The memory that is free on this machine now, and the space on the disk
        of the current directory.
        """
        try:
            disk = shutil.disk_usage(Path.cwd()).free
        except OSError:
            return cls(available(), None)
        return cls(available(), disk)


@dataclass(frozen=True, slots=True)
class Row:
    """A precision for all the targets that take the same.

    ``running``: memory by context. ``packed``: bytes of packed weights at most, of whichever target
    packs them. ``machine``: whether there is room.
    """

    estimate: Estimate
    targets: tuple[str, ...]
    running: tuple[MemoryNeed, ...]
    packed: int
    machine: Machine

    @property
    def disk(self) -> int:
        """Bytes that the export takes on disk, with what calibration keeps."""
        return self.estimate.disk + self.estimate.calibration_cache

    @property
    def packed_fits(self) -> bool | None:
        """Whether the disk has room for weights packed for the kernels,
        beside what the export takes.

        A bundle runs without it, from private memory.
        """
        return _fits(self.disk + self.packed, self.machine.disk)

    @property
    def on_gpu(self) -> bool:
        """Whether the bundle can only run on a GPU, whose memory is not looked at."""
        return all(TARGETS[name].device == "cuda" for name in self.targets)

    @property
    def memory_fits(self) -> bool | None:
        """Whether this machine has the export's peak memory free; None: not known."""
        return _fits(self.estimate.memory, self.machine.memory)

    @property
    def disk_fits(self) -> bool | None:
        """Whether the current directory's disk has the space that the
        export takes; None: not known.
        """
        return _fits(self.disk, self.machine.disk)

    def running_fits(self, need: MemoryNeed) -> bool | None:
        """Whether the memory to run is free here; None: not known, or that of a GPU."""
        return None if self.on_gpu else _fits(need.total, self.machine.memory)

    def figures(self) -> dict[str, Any]:
        """Everything in bytes, for JSON."""
        ahead = self.estimate
        return {
            "precision": ahead.precision,
            "targets": list(self.targets),
            "weights": ahead.weights,
            "weights_exact": ahead.exact,
            "export": {
                "memory": ahead.memory,
                "memory_fits": self.memory_fits,
                "bundle": ahead.disk,
                "calibration_cache": ahead.calibration_cache,
                "calibration_seconds": round(ahead.calibration_seconds),
                "disk": self.disk,
                "disk_fits": self.disk_fits,
            },
            "packed": self.packed,
            "running": [{**asdict(need), "fits": self.running_fits(need)} for need in self.running],
        }


@dataclass(frozen=True, slots=True)
class PlanTable:
    """Rows of one checkpoint. ``refused``: precision -> why it cannot be exported in it.

    ``short_calibration``: seconds that a calibration takes on this machine with a shorter text
    than the default.
    """

    name: str
    model: ModelFacts
    machine: Machine
    rows: tuple[Row, ...]
    refused: Mapping[str, str]
    short_calibration: float = 0.0

    def figures(self) -> dict[str, Any]:
        """Everything in bytes, for JSON."""
        return {
            "checkpoint": self.name,
            "model": asdict(self.model),
            "free": asdict(self.machine),
            "precisions": [row.figures() for row in self.rows],
            "refused": dict(self.refused),
        }


def plan_table(
    checkpoint: str | None,
    shape: str | None = None,
    revision: str | None = None,
    contexts: Sequence[int] | None = None,
    *,
    allow_settings: Collection[str] = (),
    calibration_tokens: int | None = None,
) -> PlanTable:
    """The table of a checkpoint or shape, at :data:`CONTEXTS` or at other ``contexts``.

    The other arguments are those of :func:`~sc2onnx.export.estimate.estimates`. Raises
    :class:`~sc2onnx.errors.CheckpointError` and :class:`~sc2onnx.errors.RequestError`.
    """
    found = estimates(
        checkpoint,
        shape,
        revision,
        allow_settings=allow_settings,
        calibration_tokens=calibration_tokens,
    )
    model, machine = facts(found.config), Machine.here()
    columns = _contexts(model) if contexts is None else contexts
    rows = _rows(found.of_variants, model, columns, machine)
    short = calibration_seconds(found.config, FEW_TOKENS)
    return PlanTable(found.name, model, machine, rows, found.refused, short)


def _rows(
    found: Collection[Estimate],
    model: ModelFacts,
    contexts: Sequence[int],
    machine: Machine,
) -> tuple[Row, ...]:
    """One row for each precision and all targets that take the same."""
    grouped: dict[Any, list[Estimate]] = {}
    for ahead in found:
        needs = (memory_ahead(model, ahead.cache, ahead.weights, tokens) for tokens in contexts)
        grouped.setdefault((replace(ahead, target="", packed=0), tuple(needs)), []).append(ahead)
    return tuple(
        Row(
            shared,
            tuple(ahead.target for ahead in alike),
            running,
            max(ahead.packed for ahead in alike),
            machine,
        )
        for (shared, running), alike in grouped.items()
    )


def _contexts(model: ModelFacts) -> Sequence[int]:
    within = [tokens for tokens in CONTEXTS if tokens <= model.context_length]
    return within or [model.context_length]


def _fits(amount: int, free: int | None) -> bool | None:
    return None if free is None else amount <= free
