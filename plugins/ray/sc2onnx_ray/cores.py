"""Cores for engines on one node: each has its own, where there are enough."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from sc2onnx.errors import RequestError
from sc2onnx.fleet.placement import Place, places


def pinned(threads: int, folder: Path | None = None) -> IO[bytes] | None:
    """Keep this process to as many cores as no other has, and give what holds them until it is
    closed, which the end of the process does. None where no group of cores is left.
    """
    try:
        groups = places(max(1, _cores() // threads))
    except RequestError:
        return None
    folder = folder or Path(tempfile.gettempdir()) / f"sc2onnx-ray-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for number, place in enumerate(groups):
        if place.processors and (held := _held(folder / f"{threads}-{number}")):
            _keep(place)
            return held
    return None


def _cores() -> int:
    return sum(place.threads for place in places(1))


def _held(path: Path) -> IO[bytes] | None:
    file = path.open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _keep(place: Place) -> None:
    """Threads that are there already are moved, others begin where the one that starts them is."""
    for thread in map(int, _threads()):
        try:
            os.sched_setaffinity(thread, place.processors)
        except ProcessLookupError:  # it has ended
            continue


def _threads() -> Sequence[str]:
    return os.listdir("/proc/self/task")
