"""Whether what lies in the user's cache may be believed.

Nobody else can have written it, and no link leads elsewhere.
What somebody else could write is as if it were not there. Root counts as the user: it could replace
the program as well, and it makes the images of containers that others run. A directory or file that
a group or everybody may write to is not believed, whoever is in the group; access-control lists of
POSIX show in the mode. Where the system has no such owners (Windows) only links are refused: there
the cache lies in the user's profile.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_REPARSE_POINT: Final = 0x400
"""``FILE_ATTRIBUTE_REPARSE_POINT``: what links and junctions are on Windows."""


def check_directories(root: Path, *inside: str) -> None:
    """Raise :class:`OSError` unless the cache's directory and those below it may be believed.

    ``root`` is the user's choice: it may be a link, and one of those directories in which everybody
    has files but nobody moves those of others (as ``/tmp``). ``inside`` are one below the other.
    """
    _check(root, root.stat(), stat.S_IFDIR, shared=True)
    for name in inside:
        root = root / name
        _check(root, root.lstat(), stat.S_IFDIR)


def check_file(file: Path) -> os.stat_result:
    """The status of a file. Raises :class:`OSError` unless it may be believed."""
    status = file.lstat()
    _check(file, status, stat.S_IFREG)
    return status


def is_link(path: Path) -> bool:
    """Whether there is a link or a junction at this path. False where there is nothing."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return _links(status)


def _check(path: Path, status: os.stat_result, kind: int, *, shared: bool = False) -> None:
    if _links(status) and not shared:
        raise OSError(f"{path} is a link, which is not followed in a cache: remove it")
    if stat.S_IFMT(status.st_mode) != kind:
        expected = "a directory" if kind == stat.S_IFDIR else "a file"
        raise OSError(f"{path} is not {expected}: remove it")
    me = getattr(os, "geteuid", None)
    if me is None:
        return
    if status.st_uid not in (me(), 0):
        raise OSError(f"{path} belongs to another user ({status.st_uid}, expected {me()})")
    mode = stat.S_IMODE(status.st_mode)
    if mode & _OTHERS_WRITE and not (shared and mode & stat.S_ISVTX):
        raise OSError(f"others can write to {path} (mode {mode:04o}): chmod go-w")


def _links(status: os.stat_result) -> bool:
    attributes = getattr(status, "st_file_attributes", 0)  # of Windows
    return stat.S_ISLNK(status.st_mode) or bool(attributes & _REPARSE_POINT)
