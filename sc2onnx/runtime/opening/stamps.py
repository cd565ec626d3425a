"""The memo of digests: which large files were hashed before, and have not changed since.

A file is known again by a stamp of its size, its times, its inode and its device. What restores a
modification time (a backup, ``touch -r``, ``cp -p``, ``rsync -t``) cannot restore the time of
change, which the system sets, nor a copy the inode. In memory (tmpfs) writes through a mapping set
no time, so what lies there is read every time. The memo lies in the user's cache directory,
one file for each directory of hashed files, and counts for nothing where somebody else could have
written it (:mod:`sc2onnx.bundle.trust`).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Final

from sc2onnx.bundle import records
from sc2onnx.bundle.directories import cache_directory, make_directory
from sc2onnx.bundle.files import replace_text
from sc2onnx.bundle.trust import check_directories, check_file

LARGE: Final = 256_000_000
"""Bytes from which the digest of a file is remembered; smaller ones take a tenth of a second."""

_FOLDER: Final = "checked"
_MOST_BYTES: Final = 1 << 20

_TICK: Final = 50_000_000
_COARSE_TICK: Final = 2_000_000_000
"""Nanoseconds within which two changes of a file may get one time: of a clock of the system that
ticks every few milliseconds, and of file systems that keep whole seconds, or every second one."""


MOUNTS: Final = Path("/proc/self/mountinfo")
"""The table of mounts of this process."""

_IN_MEMORY: Final = ("tmpfs", "ramfs", "hugetlbfs", "devtmpfs")


@dataclass(frozen=True, slots=True)
class Stamp:
    """What shows that a file changed: its bytes, its times in nanoseconds, and where it lies."""

    size: int
    modified: int
    changed: int
    inode: int
    device: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp of a file with this status."""
        times = status.st_mtime_ns, status.st_ctime_ns
        return cls(status.st_size, *times, status.st_ino, status.st_dev)

    @classmethod
    def at(cls, path: Path) -> Stamp:
        """The stamp of the file at a path, links followed. Raises :class:`OSError`."""
        return cls.of(path.stat())

    @property
    def tells(self) -> bool:
        """Whether it shows every change: not without an inode or a time of change
        (Windows), nor in memory.
        """
        if sys.platform == "win32" or self.changed == 0 or self.inode == 0:
            return False
        return not in_memory(self.device)

    def settled(self, now: int) -> bool:
        """Whether any change from ``now`` on (nanoseconds) would give another stamp."""
        return now - self.changed > (_TICK if self.changed % 1_000_000_000 else _COARSE_TICK)


def in_memory(device: int) -> bool:
    """Whether a device is a file system in memory, by the table of mounts (``proc(5)``).

    Its line is ``ID PARENT MAJOR:MINOR ROOT PLACE OPTIONS [TAGS] - TYPE SOURCE OPTIONS``. False
    where there is none (macOS).
    """
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    rows = [
        before.split()[2:3] + after.split()[:1]
        for before, _, after in (line.partition(" - ") for line in lines)
    ]
    return any(row in ([number, kind] for kind in _IN_MEMORY) for row in rows)


@dataclass(slots=True)
class Memo:
    """The digests of a directory's large files. :meth:`open` reads it, :meth:`save` writes it."""

    directory: Path
    _kept: dict[str, Any] = field(default_factory=dict)
    _fresh: dict[str, list[Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, directory: Path) -> Memo:
        """What was noted of a directory; nothing where it is not to be believed. Never fails."""
        with suppress(OSError, ValueError):
            file = _file(directory)
            check_directories(cache_directory(), _FOLDER)
            check_file(file)
            return cls(directory, records.read(file, _MOST_BYTES))
        return cls(directory)

    def digest(self, name: str, expected: str = "") -> str:
        """The SHA-256 of a file, in hexadecimal digits.

        It is read, unless it was before, had the digest ``expected``, and is unchanged since.
        Raises :class:`OSError`.
        """
        with (self.directory / name).open("rb") as file:
            stamp, now = Stamp.of(os.fstat(file.fileno())), time.time_ns()
            if expected and self._remembered(name, stamp) == expected:
                return expected
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            unchanged = Stamp.of(os.fstat(file.fileno())) == stamp
        if unchanged and stamp.size >= LARGE and stamp.tells and stamp.settled(now):
            self._fresh[name] = [*astuple(stamp), digest]
        return digest

    def known(self, name: str) -> str | None:
        """The SHA-256 of a file, None if a large one must be read. Raises :class:`OSError`."""
        stamp = Stamp.at(self.directory / name)
        return self.digest(name) if stamp.size < LARGE else self._remembered(name, stamp)

    def save(self) -> None:
        """Keep what is new. Never fails: where it cannot be kept the next load hashes once more."""
        if not self._fresh:
            return
        with suppress(OSError):
            file, root = _file(self.directory), cache_directory()
            make_directory(file.parent)
            check_directories(root, _FOLDER)
            replace_text(file, json.dumps({**self._kept, **self._fresh}))

    def _remembered(self, name: str, stamp: Stamp) -> str | None:
        match self._fresh.get(name) or self._kept.get(name):
            case [*noted, str(digest)] if stamp.tells and noted == [*astuple(stamp)]:
                return digest
        return None


def _file(directory: Path) -> Path:
    key = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()
    return cache_directory() / _FOLDER / f"{key[:32]}.json"
