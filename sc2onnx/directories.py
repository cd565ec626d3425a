"""Where sc2onnx keeps what it can make again."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_directory() -> Path:
    """``SC2ONNX_CACHE``, or a place in the user's cache directory. Raises :class:`RuntimeError` where there is no home."""
    if chosen := os.environ.get("SC2ONNX_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "sc2onnx"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "sc2onnx"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sc2onnx"
