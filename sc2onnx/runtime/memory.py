"""Memory of a loaded model: by construction, and as the operating system sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sc2onnx.errors import OutOfMemoryError
from sc2onnx.runtime.limits import HERE, Groups, memory_left


@dataclass(frozen=True, slots=True)
class MemoryFootprint:
    """Bytes. By construction: ``weights`` of the bundle, ``cache`` allocated by open
    sequences, ``adapters`` that are loaded, and their ``total``.

    As resident, where the operating system tells (Linux), else None: ``resident_weights``, pages in
    memory of the weights file and of the packed weights in the cache (shared between processes,
    dropped under pressure); ``resident_private``, the process's own pages, Python included;
    ``resident_total``, all its pages. A fresh cache is not resident until it is written.
    """

    weights: int
    cache: int
    total: int
    resident_weights: int | None
    resident_private: int | None
    resident_total: int | None
    adapters: int = 0


def not_enough(error: MemoryError) -> OutOfMemoryError:
    """What to raise for an array that found no room; numpy says its size."""
    return OutOfMemoryError(
        f"there is not enough memory ({error or 'an array found no room'}): give a shorter prompt "
        "or fewer at once, or load with a smaller cache_capacity, prefix_memory or prefill_chunk"
    )


def measure(
    weights: int, cache: int, weights_files: Sequence[Path], adapters: int = 0
) -> MemoryFootprint:
    """The footprint now. ``weights``, ``cache`` and ``adapters`` are what construction says;
    ``weights_files`` are mapped.
    """
    total = weights + cache + adapters
    status = process_status()
    if "VmRSS" not in status:
        return MemoryFootprint(weights, cache, total, None, None, None, adapters)
    return MemoryFootprint(
        weights,
        cache,
        total,
        _resident_pages_of(weights_files),
        status.get("RssAnon"),
        status["VmRSS"],
        adapters,
    )


def process_status() -> dict[str, int]:
    """The kernel's account of this process, the lines that are sizes, in bytes (``proc(5)``);
    empty elsewhere than on Linux.
    """
    return _kilobytes(Path("/proc/self/status"))


def available(system: Path = Path("/proc/meminfo"), groups: Groups = HERE) -> int | None:
    """Bytes that a new process may take without swapping, where the operating system tells (Linux),
    within its groups' limits.
    """
    free, left = _kilobytes(system).get("MemAvailable"), memory_left(groups)
    return free if free is None or left is None else min(free, left)


def _kilobytes(path: Path) -> dict[str, int]:
    """``Name:  123 kB`` lines as bytes."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {
        words[0].rstrip(":"): int(words[1]) * 1024
        for words in lines
        if len(words) == 3 and words[2] == "kB"
    }


def _resident_pages_of(files: Sequence[Path]) -> int | None:
    """Sum of ``Rss`` over this process's mappings of files; those removed since
    have no name to be found by.
    """
    total, inside, names = 0, False, {str(file.resolve()) for file in files}
    try:
        with Path("/proc/self/smaps").open() as mappings:
            for line in mappings:
                first = line.split(maxsplit=1)[0]
                # the header of a mapping: addresses, permissions, offset, device, inode, path
                if not first.endswith(":"):
                    inside = line.rstrip("\n").split(maxsplit=5)[-1] in names
                elif inside and first == "Rss:":
                    total += int(line.split()[1]) * 1024
    except OSError:
        return None
    return total
