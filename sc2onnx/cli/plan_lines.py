"""The table of ``plan`` for a person, and what it needs to be understood."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from sc2onnx.cli.plan_table import FEW_TOKENS, PlanTable, Row
from sc2onnx.tables import aligned, column_widths


def lines(table: PlanTable) -> list[str]:
    """The table for a person, in GB, and what it needs to be understood."""
    model = table.model
    context = f"context {model.context_length:,}"
    title = f"{table.name}: {model.parameters:,} parameters, {context}, sizes in GB"
    cells = [_headings(need.context for need in table.rows[0].running), *map(_cells, table.rows)]
    shown = [title, "", _over(column_widths(cells)), *aligned(cells, left=(0, 1))]
    refused = [f"{precision}: {reason}" for precision, reason in table.refused.items()]
    return [*shown, "", *refused, *_notes(table)]


def _headings(contexts: Iterable[int]) -> list[str]:
    export = ["precision", "target", "weights", "memory", "disk", "packed"]
    return [*export, *(f"{tokens:,}" for tokens in contexts), "fits here"]


def _over(widths: Sequence[int]) -> str:
    """The line above the headings, which says what the columns are about."""
    first, export, packed = sum(widths[:3]) + 2 * 3, sum(widths[3:5]) + 4, widths[5] + 2
    return f"{'':<{first}}{'to export':<{export}}{'':<{packed}}memory to run, by tokens of context"


def _cells(row: Row) -> list[str]:
    ahead, bound = row.estimate, "" if row.estimate.exact else "<="
    packed = bound + _gigabytes(row.packed) + _mark(row.packed_fits) if row.packed else "- "
    needs = ((_gigabytes(need.total), _mark(row.running_fits(need))) for need in row.running)
    return [
        ahead.precision,
        ", ".join(row.targets),
        f"{bound}{_gigabytes(ahead.weights)} ",
        _gigabytes(ahead.memory) + _mark(row.memory_fits),
        bound + _gigabytes(row.disk) + _mark(row.disk_fits),
        packed,
        *(bound + total + mark for total, mark in needs),
        _verdict(row),
    ]


def _verdict(row: Row) -> str:
    running = [] if row.on_gpu else map(row.running_fits, row.running)
    fits = [row.memory_fits, row.disk_fits, *running]
    return "no" if False in fits else "?" if None in fits else "export" if row.on_gpu else "yes"


def _gigabytes(nbytes: int) -> str:
    return f"{nbytes / 1e9:.3f}"


def _time(seconds: float) -> str:
    """A duration that is known roughly."""
    hours, minutes = seconds / 3600, max(1, round(seconds / 60))
    return f"{hours:.1f} hours" if seconds >= 5400 else f"{minutes} min"


def _mark(fits: bool | None) -> str:
    return "!" if fits is False else " "


def _notes(table: PlanTable) -> Iterator[str]:
    machine = table.machine
    memory, disk = map(_free, (machine.memory, machine.disk))
    yield f"Free here: memory {memory}, disk {disk}. ! marks what is more than that."
    yield from _verdict_notes({_verdict(row) for row in table.rows})
    if any(not row.estimate.exact for row in table.rows):
        yield "<= 1.2 means 1.2 at most: calibration decides how many weights keep 8 bits, so"
        yield "  the size is known when the export is done."
    yield from _calibration_notes(table)
    yield from _packed_notes(table)
    yield "Disk to export is beside the checkpoint. Memory to run is that of weights and cache,"
    yield "  beside the interpreter."


_VERDICTS: Final = {
    "yes": "this machine can export the precision and run it",
    "export": "it can export it; a GPU runs it, whose memory is not looked at",
    "no": "something marked ! is more than is free",
    "?": "the operating system does not tell what is free",
}
"""What the last column says, and what that means."""


def _verdict_notes(found: Collection[str]) -> Iterator[str]:
    meant = [f"{word}: {text}" for word, text in _VERDICTS.items() if word in found]
    yield f"fits here: {meant[0]}"
    yield from (f"           {each}" for each in meant[1:])


def _free(nbytes: int | None) -> str:
    return "not known" if nbytes is None else f"{nbytes / 1e9:.1f} GB"


def _calibration_notes(table: PlanTable) -> Iterator[str]:
    calibrated = [row.estimate for row in table.rows if row.estimate.calibration_seconds]
    if not calibrated:
        return
    names = " and ".join(dict.fromkeys(ahead.precision for ahead in calibrated))
    longest = max(ahead.calibration_seconds for ahead in calibrated)
    yield f"To export, {names}: with calibration, about {_time(longest)} on this machine, and"
    yield "  on disk what it keeps in the cache directory."
    if table.short_calibration < longest:
        yield f"  --calibration-tokens {FEW_TOKENS}: {_time(table.short_calibration)}"


def _packed_notes(table: PlanTable) -> Iterator[str]:
    packed = [row for row in table.rows if row.packed]
    if not packed:
        return
    names = ", ".join(dict.fromkeys(row.estimate.precision for row in packed))
    yield f"packed: {names} on sc2onnx-kernels keep their weights in the cache directory, as the"
    yield "  kernels read them. The first load makes that, in as much private memory. None below"
    yield "  64 MB, nor beyond SC2ONNX_PACKED_BYTES, 16 GB by default. On the kernels the cache of"
    yield "  keys and values takes a quarter of what is counted here: they are in int8."
