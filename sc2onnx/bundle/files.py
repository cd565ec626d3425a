"""Small files are replaced whole or not at all; what must survive a power cut; whose a file is."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Final

TEMPORARY: Final = ".sc2onnx-"
"""Names of files in the making begin with this."""


def replace_text(path: Path, text: str) -> None:
    """Replace a small text file by a temporary sibling that is synchronised and renamed.

    Raises :class:`OSError`.
    """
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, data: bytes) -> None:
    """Replace a small file as :func:`replace_text` does; a pipe or a device is written to instead.

    Raises :class:`OSError`.
    """
    path = path.resolve()  # a link stays one
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk. Raises :class:`OSError`."""
    if path.is_dir() and sys.platform == "win32":  # which opens no directories
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


if sys.platform == "win32":
    import msvcrt

    def lock(handle: int, wait: bool) -> None:
        """Lock an open file until it is closed. Raises :class:`OSError` where another has it and
        this is not to ``wait``.
        """
        msvcrt.locking(handle, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def lock(handle: int, wait: bool) -> None:
        """Lock an open file until it is closed. Raises :class:`OSError` where another has it and
        this is not to ``wait``.
        """
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
