"""Before any work: what every precision of a checkpoint takes to export and to run, and whether this machine has it.

Composes the exporter's forecast with the runtime's arithmetic, as the command line does with everything else.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from sc2onnx.bundle.contract import MANIFEST_FILE
from sc2onnx.bundle.facts import ModelFacts
from sc2onnx.bundle.targets import TARGETS
from sc2onnx.errors import BundleError, RequestError
from sc2onnx.export import hub
from sc2onnx.export.adapter import ADAPTER_CONFIG
from sc2onnx.export.checkpoint import CONFIG_FILE, read_config
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.forecast import Forecast, calibration_seconds, facts, forecast, variants
from sc2onnx.export.shapes import SHAPES
from sc2onnx.runtime.memory import available
from sc2onnx.runtime.memory_need import MemoryNeed, memory_ahead
from sc2onnx.tables import aligned, column_widths

CONTEXTS: Final = (1024, 4096, 16384)
"""Tokens at which running is looked at, as far as the model's context goes."""

_FEW_TOKENS: Final = 8192
"""A shorter text of calibration, to show what that saves."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Free bytes here; None where the operating system does not tell."""

    memory: int | None
    disk: int | None

    @classmethod
    def here(cls) -> Machine:
        """What is free now, and on the disk of the current directory."""
        try:
            disk = shutil.disk_usage(Path.cwd()).free
        except OSError:
            return cls(available(), None)
        return cls(available(), disk)


@dataclass(frozen=True, slots=True)
class Row:
    """A precision for all the targets that take the same; ``running`` by context. ``machine``: whether there is room."""

    forecast: Forecast
    targets: tuple[str, ...]
    running: tuple[MemoryNeed, ...]
    machine: Machine
    quantised: bool = False

    @property
    def disk(self) -> int:
        """Bytes that the export takes on disk, with what calibration keeps."""
        return self.forecast.disk + self.forecast.calibration_cache

    @property
    def packed(self) -> int:
        """Bytes that its weights, packed, take at most in the cache directory of whoever runs it on the kernels; 0 for none."""
        packed = self.quantised and any(TARGETS[name].kernels for name in self.targets)
        return self.forecast.weights if packed else 0

    @property
    def packed_fits(self) -> bool | None:
        """Whether there is disk for it beside what the export takes; a bundle runs without, from private memory."""
        return _fits(self.disk + self.packed, self.machine.disk)

    @property
    def on_gpu(self) -> bool:
        """Whether it can only run there: in memory that is not looked at."""
        return all(TARGETS[name].device == "cuda" for name in self.targets)

    @property
    def memory_fits(self) -> bool | None:
        """Whether the export's peak memory is free here; None: not known."""
        return _fits(self.forecast.memory, self.machine.memory)

    @property
    def disk_fits(self) -> bool | None:
        """Whether the export's disk space is free here; None: not known."""
        return _fits(self.disk, self.machine.disk)

    def running_fits(self, need: MemoryNeed) -> bool | None:
        """Whether the memory to run is free here; None: not known, or that of a GPU."""
        return None if self.on_gpu else _fits(need.total, self.machine.memory)

    def figures(self) -> dict[str, Any]:
        """Everything in bytes, for JSON."""
        ahead = self.forecast
        export = {"memory": ahead.memory, "memory_fits": self.memory_fits, "bundle": ahead.disk, "calibration_cache": ahead.calibration_cache}
        export["calibration_seconds"] = round(ahead.calibration_seconds)
        return {
            "precision": ahead.precision,
            "targets": list(self.targets),
            "weights": ahead.weights,
            "weights_exact": ahead.exact,
            "export": {**export, "disk": self.disk, "disk_fits": self.disk_fits},
            "packed": self.packed,
            "running": [{**asdict(need), "fits": self.running_fits(need)} for need in self.running],
        }


@dataclass(frozen=True, slots=True)
class Outlook:
    """Of one checkpoint. ``refused``: precision -> why this checkpoint cannot be exported in it.

    ``short_calibration``: seconds that a calibration takes on two processors with a shorter text than the default.
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


def outlook(
    checkpoint: str | None,
    shape: str | None = None,
    revision: str | None = None,
    context: int | None = None,
    *,
    allow_settings: Collection[str] = (),
) -> Outlook:
    """Of a checkpoint (directory or hub id) or of a published shape (a key of ``SHAPES``), at :data:`CONTEXTS` or at one ``context``.

    ``allow_settings``: unknown settings that the caller vouches for, as :func:`~sc2onnx.export.export`
    takes them. Of a hub id only ``config.json`` is fetched, and what tells of an adapter. Raises
    :class:`~sc2onnx.errors.CheckpointError` and :class:`RequestError`.
    """
    name, config = _configuration(checkpoint, shape, revision, allow_settings)
    model, machine = facts(config), Machine.here()
    contexts = _contexts(model) if context is None else [context]
    grouped: dict[Any, list[str]] = {}
    refused: dict[str, str] = {}
    for variant in variants():
        try:
            ahead = forecast(config, variant)
        except RequestError as error:
            refused[variant.name] = str(error)
            continue
        running = tuple(memory_ahead(model, ahead.cache, ahead.weights, tokens) for tokens in contexts)
        grouped.setdefault((replace(ahead, target=""), running, variant.recipe() is not None), []).append(variant.target)
    rows = tuple(Row(ahead, tuple(targets), running, machine, quantised) for (ahead, running, quantised), targets in grouped.items())
    return Outlook(name, model, machine, rows, refused, calibration_seconds(config, _FEW_TOKENS))


def lines(ahead: Outlook) -> list[str]:
    """A table for a person, in GB, and what it needs to be understood."""
    contexts = [need.context for need in ahead.rows[0].running]
    table = [_headings(contexts), *map(_cells, ahead.rows)]
    widths = column_widths(table)
    first = sum(widths[:3]) + 2 * 3
    over = f"{'':<{first}}{'to export':<{sum(widths[3:5]) + 4}}{'':<{widths[5] + 2}}memory to run, by tokens of context"
    shown = [f"{ahead.name}: {ahead.model.parameters:,} parameters, context {ahead.model.context_length:,}, sizes in GB", "", over]
    shown += aligned(table, left=(0, 1))
    shown += ["", *(f"{precision}: {reason}" for precision, reason in ahead.refused.items()), *_notes(ahead)]
    return shown


def _configuration(checkpoint: str | None, shape: str | None, revision: str | None, allowed: Collection[str]) -> tuple[str, Starcoder2Config]:
    if shape is not None:
        return f"starcoder2-{shape}", Starcoder2Config.from_dict(SHAPES[shape], allowed)
    if checkpoint is None:
        raise RequestError(f"no checkpoint: give a directory, a hub id, or --shape {'|'.join(SHAPES)}")
    if (Path(checkpoint) / MANIFEST_FILE).is_file():
        raise BundleError(f"{checkpoint} is a bundle, exported already: leave --plan out, or give the checkpoint it came from")
    source = hub.resolve(checkpoint, revision, [CONFIG_FILE, ADAPTER_CONFIG])
    return source.name, Starcoder2Config.from_dict(read_config(source.directory), allowed)


def _contexts(model: ModelFacts) -> Sequence[int]:
    return [tokens for tokens in CONTEXTS if tokens <= model.context_length] or [model.context_length]


def _fits(amount: int, free: int | None) -> bool | None:
    return None if free is None else amount <= free


def _headings(contexts: Sequence[int]) -> list[str]:
    return ["precision", "target", "weights", "memory", "disk", "packed", *(f"{tokens:,}" for tokens in contexts), "fits here"]


def _cells(row: Row) -> list[str]:
    ahead, bound = row.forecast, "" if row.forecast.exact else "<="
    return [
        ahead.precision,
        ", ".join(row.targets),
        f"{bound}{_gigabytes(ahead.weights)} ",
        _gigabytes(ahead.memory) + _mark(row.memory_fits),
        bound + _gigabytes(row.disk) + _mark(row.disk_fits),
        bound + _gigabytes(row.packed) + _mark(row.packed_fits) if row.packed else "- ",
        *(bound + _gigabytes(need.total) + _mark(row.running_fits(need)) for need in row.running),
        _verdict(row),
    ]


def _verdict(row: Row) -> str:
    fits = [row.memory_fits, row.disk_fits, *([] if row.on_gpu else map(row.running_fits, row.running))]
    return "no" if False in fits else "?" if None in fits else "export" if row.on_gpu else "yes"


def _gigabytes(nbytes: int) -> str:
    return f"{nbytes / 1e9:.3f}"


def _time(seconds: float) -> str:
    """A duration that is known roughly."""
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{max(1, round(seconds / 60))} min"


def _mark(fits: bool | None) -> str:
    return "!" if fits is False else " "


def _notes(ahead: Outlook) -> list[str]:
    memory, disk = ("not known" if free is None else f"{free / 1e9:.1f} GB" for free in (ahead.machine.memory, ahead.machine.disk))
    notes = [f"Free here: memory {memory}, disk {disk}. ! marks what is more than that."]
    if any(not row.forecast.exact for row in ahead.rows):
        notes.append("<= at most: the export finds out which products need more bits.")
    if calibrated := [row.forecast for row in ahead.rows if row.forecast.calibration_seconds]:
        names = " and ".join(dict.fromkeys(row.precision for row in calibrated))
        longest = max(row.calibration_seconds for row in calibrated)
        notes.append(f"To export, {names}: with calibration, about {_time(longest)} on 2 processors ({_time(ahead.short_calibration)} with")
        notes.append(f"  --calibration-tokens {_FEW_TOKENS}), and on disk what it keeps in the cache directory.")
    if packed := [row for row in ahead.rows if row.packed]:
        names = ", ".join(dict.fromkeys(row.forecast.precision for row in packed))
        notes.append(f"packed: on disk, in the cache directory of whoever runs {names} on sc2onnx-kernels, after the first load, which packs the")
        notes.append("  weights in as much private memory. None below 64 MB, nor beyond SC2ONNX_PACKED_BYTES, 16 GB by default.")
        notes.append("  On the kernels the cache takes about a quarter of what is counted here: keys and values in int8.")
    if any(row.on_gpu for row in ahead.rows):
        notes.append("For cuda, the memory to run is the GPU's, which is not looked at.")
    return [*notes, "Disk to export is beside the checkpoint. Memory to run is that of weights and cache, beside the interpreter."]
