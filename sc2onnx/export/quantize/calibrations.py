"""The calibrations kept on this machine: an interrupted or repeated one starts where the last one
ended.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from sc2onnx.bundle.directories import cache_directory, make_directory
from sc2onnx.bundle.trust import check_directories
from sc2onnx.export.progress import Progress, Silent
from sc2onnx.export.quantize import rounding, streams
from sc2onnx.export.quantize.store import Store, unwritable

ALGORITHM: Final = 6
"""Raised whenever the same text gives other codes, unless that is by one of
:func:`sc2onnx.export.quantize.rounding.constants`.
"""

KEPT: Final = 2
"""Calibrations kept on disk; older ones go when a new one starts."""

_NAME: Final = re.compile("[0-9a-f]{32}")


@contextmanager
def open_store(parts: Mapping[str, object], report: Progress | None = None) -> Iterator[Store]:
    """The store of what these parts determine (checkpoint, recipe, text), for this process
    alone; others wait, and say so.

    Raises :class:`OutputError` where there is no cache directory, it cannot be written, or somebody
    else could write to it (:mod:`sc2onnx.bundle.trust`): what is read there becomes weights.
    """
    constants = streams.ORIGINAL_TOKENS, *rounding.constants()
    key = hashlib.sha256(
        json.dumps({"algorithm": [ALGORITHM, *constants], **parts}, sort_keys=True).encode()
    ).hexdigest()[:32]
    root = cache_directory() / "calibration"
    lock = FileLock(root / f"{key}.lock")
    try:
        make_directory(root)
        check_directories(root.parent, root.name)
        _acquire(lock, report or Silent())
    except OSError as error:
        raise unwritable(root, error) from error
    try:
        yield Store(_made(root, key))
    finally:
        lock.release()


def _acquire(lock: FileLock, report: Progress) -> None:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        report.stage("waiting for another export that calibrates the same")
        lock.acquire()


def checkpoint_digest(files: list[Path]) -> str:
    """SHA-256 over the names and contents of the weight files: seconds, where
    calibration takes an hour.
    """
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def windows_digest(windows: npt.NDArray[np.int64]) -> str:
    """SHA-256 of token ids."""
    return hashlib.sha256(np.ascontiguousarray(windows).tobytes()).hexdigest()


def _made(root: Path, key: str) -> Path:
    """A calibration's directory, and room for it among the others."""
    directory = root / key
    try:
        directory.mkdir(mode=0o700, exist_ok=True)  # so the modes of its files do not matter
        check_directories(root.parent, root.name, key)
        os.utime(directory)  # the latest in use
        _forget(root, keep=KEPT)
    except OSError as error:
        raise unwritable(root, error) from error
    return directory


def _forget(root: Path, keep: int) -> None:
    """Remove all but the latest calibrations, and none that another process is at work on,
    or that we may not touch.

    Their lock files stay: a process that waits for one would hold a file that the
    next process does not see.
    """
    ours = [path for path in root.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    directories = sorted(ours, key=_last_use, reverse=True)
    for old in directories[keep:]:
        with suppress(OSError), FileLock(root / f"{old.name}.lock", blocking=False):
            shutil.rmtree(old, ignore_errors=True)


def _last_use(directory: Path) -> float:
    try:
        return directory.stat().st_mtime
    except OSError:  # another process has just removed it
        return 0.0
