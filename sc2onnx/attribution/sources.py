"""Files of directories, as they go into an index: which are left out, and under which licence each
stands, as far as files say so themselves.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from sc2onnx.bundle.texts import plain_text
from sc2onnx.errors import RequestError

MOST_BYTES: Final = 1 << 20
"""Of a file, by default: larger ones are data, or made by programs."""

_HISTORIES: Final = frozenset({".git", ".hg", ".svn"})
"""Directories of version control, which hold no files of code."""

_LICENCES: Final = re.compile(r"(?i)(un)?licen[cs]e|copying|licen[cs]es?[.-].*|copying[.-].*")
"""Names of files that are a licence."""

_DECLARED: Final = re.compile(rb"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+() -]{1,200})")

_HEAD: Final = 8192
"""Bytes at a file's beginning that say whether it is text, and may declare its licence."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file: its ``path`` as it is told, its bytes (``data``), the licence that it declares
    (``SPDX-License-Identifier``), and the path of the nearest file of a licence above it.
    """

    path: str
    data: bytes
    licence: str | None
    licence_file: str | None


@dataclass(slots=True)
class Skipped:
    """Files that are left out, by why: no text (``binary``), ``large``, or not to be read."""

    binary: int = 0
    large: int = 0
    unreadable: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Files:
    """The files of directories, or files that are named, in an order that is always the same.

    Links are not followed, and directories of version control are left out. So is what a pattern
    of ``exclude`` matches, such as ``node_modules`` or ``*.min.js``: the name of a file or
    directory, or its path. ``most_bytes``: of a file, larger ones are left out.

    Raises :class:`~sc2onnx.errors.RequestError` while it is iterated, for a path that is not there.
    """

    paths: Sequence[Path]
    exclude: Sequence[str] = ()
    most_bytes: int = MOST_BYTES
    skipped: Skipped = field(default_factory=Skipped)

    def __iter__(self) -> Iterator[SourceFile]:
        for path in self.paths:
            if path.is_dir():
                yield from self._inside(path)
            elif path.is_file():
                yield from self._read(path, _licence_beside(path))
            else:
                raise RequestError(f"{path} is not there, expected a directory or a file")

    def _inside(self, folder: Path) -> Iterator[SourceFile]:
        """The files of a directory, and then those of the directories in it."""
        folders: list[tuple[Path, str | None]] = [(folder, None)]
        while folders:
            folder, above = folders.pop()
            entries = self._entries(folder)
            licence = _licence_of(folder, [entry.name for entry in entries]) or above
            inner = list[tuple[Path, str | None]]()
            for entry in entries:
                path = folder / entry.name
                if self._excluded(path) or entry.is_symlink():
                    continue
                if not entry.is_dir(follow_symlinks=False):
                    yield from self._read(path, licence)
                elif entry.name not in _HISTORIES:
                    inner.append((path, licence))
            folders += reversed(inner)

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """What a directory has, by name."""
        try:
            return sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            self.skipped.unreadable.append(str(folder))
            return []

    def _excluded(self, path: Path) -> bool:
        return any(
            fnmatch(path.name, pattern) or fnmatch(path.as_posix(), pattern)
            for pattern in self.exclude
        )

    def _read(self, path: Path, licence: str | None) -> Iterator[SourceFile]:
        """A file, unless it is to be left out. A pipe or a device is not opened."""
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                return
            with path.open("rb") as file:
                data = file.read(self.most_bytes + 1)
        except OSError:
            self.skipped.unreadable.append(str(path))
            return
        if len(data) > self.most_bytes:
            self.skipped.large += 1
        elif b"\0" in data[:_HEAD]:
            self.skipped.binary += 1
        else:
            yield SourceFile(_told(path), data, _declared(data), licence)


def _licence_beside(path: Path) -> str | None:
    try:
        return _licence_of(path.parent, os.listdir(path.parent))
    except OSError:
        return None


def _licence_of(folder: Path, names: Sequence[str]) -> str | None:
    """The path of a directory's licence: the first by name, where there are several."""
    found = sorted(name for name in names if _LICENCES.fullmatch(name))
    return _told(folder / found[0]) if found else None


def _declared(data: bytes) -> str | None:
    found = _DECLARED.search(data, 0, _HEAD)
    return found[1].decode("ascii").strip(" -") or None if found else None


def _told(path: Path) -> str:
    """A path as text that every file and terminal takes."""
    return plain_text(path.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
