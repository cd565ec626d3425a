"""Processors for workers: each has its own, near to each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from sc2onnx.errors import RequestError

_SYSTEM: Final = Path("/sys/devices/system")


@dataclass(frozen=True, slots=True)
class Place:
    """The processors of a worker, empty where they cannot be told apart, and its ``threads``: one
    for each core.
    """

    processors: tuple[int, ...]
    threads: int


def places(workers: int, threads: int | None = None, system: Path = _SYSTEM) -> list[Place]:
    """Places for so many workers on the processors that this process may use.

    Cores of one memory node stay together as far as the numbers allow, and so do the processors of
    one core. ``threads``: of each worker, by default one for each of its cores. Raises
    :class:`~sc2onnx.errors.RequestError` for more workers than cores, unless ``threads`` are said:
    then they share all of them.
    """
    if not hasattr(os, "sched_getaffinity"):  # macOS and Windows pin nothing
        count = os.cpu_count() or 1
        return [Place((), threads or max(1, count // workers))] * workers
    cores = _cores(sorted(os.sched_getaffinity(0)), system)
    if workers > len(cores) and threads is None:
        found = f"workers is {workers}, expected at most {len(cores)}: each has a core of its own"
        raise RequestError(f"{found}, unless --threads says how many threads each has")
    if workers > len(cores):
        return [Place((), threads or 1)] * workers
    return [_place(part, threads) for part in _parts(cores, workers)]


def _place(cores: Sequence[tuple[int, ...]], threads: int | None) -> Place:
    return Place(tuple(sorted(sum(cores, ()))), threads or len(cores))


def _parts(cores: Sequence[tuple[int, ...]], count: int) -> list[Sequence[tuple[int, ...]]]:
    """Equal parts, one after the other: 7 cores for 2 workers are 4 and 3."""
    ends = [-(-len(cores) * number // count) for number in range(count + 1)]
    return [cores[first:last] for first, last in pairwise(ends)]


def _cores(processors: Sequence[int], system: Path) -> list[tuple[int, ...]]:
    """The processors of each core, cores of a memory node one after the other."""
    cores = dict[tuple[int, int], list[int]]()
    for processor in processors:
        folder = system / f"cpu/cpu{processor}"
        node = next((int(each.name[4:]) for each in folder.glob("node[0-9]*")), 0)
        siblings = _listed(folder / "topology/thread_siblings_list")
        cores.setdefault((node, min(siblings, default=processor)), []).append(processor)
    return [tuple(cores[key]) for key in sorted(cores)]


def _listed(path: Path) -> list[int]:
    """Numbers of a file such as ``0-3,8-11``; none where it is not there."""
    try:
        parts = path.read_text().strip().split(",")
        ranges = [part.split("-") for part in parts if part]
        return [n for ends in ranges for n in range(int(ends[0]), int(ends[-1]) + 1)]
    except (OSError, ValueError):
        return []
