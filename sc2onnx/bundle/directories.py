"""Where sc2onnx keeps what it can make again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sc2onnx.errors import OutputError


def cache_directory() -> Path:
    """``SC2ONNX_CACHE``, or a place in the user's cache directory.
    Raises :class:`OutputError` where there is no home.
    """
    if chosen := os.environ.get("SC2ONNX_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or _home() / "AppData" / "Local") / "sc2onnx"
    if sys.platform == "darwin":
        return _home() / "Library" / "Caches" / "sc2onnx"
    return Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache") / "sc2onnx"


def make_directory(directory: Path) -> None:
    """Make a directory of the cache, and what is missing above it, that nobody else can write to.

    Whatever the umask says of groups: what others could write is not believed later. Raises
    :class:`OSError`.
    """
    for missing in reversed([directory, *directory.parents]):
        if not missing.is_dir():
            missing.mkdir(mode=0o755, exist_ok=True)


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise OutputError(
            "there is no home directory to keep a cache in: set SC2ONNX_CACHE to a "
            "directory that can be written"
        ) from error
