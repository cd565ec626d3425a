"""Small files are replaced whole or not at all."""

from __future__ import annotations

import os
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
