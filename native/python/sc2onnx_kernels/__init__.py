"""Where the library of custom operators lies. It is loaded by ONNX Runtime, not by Python."""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"

OPERATORS = 4
"""Version of the operators' contract, which bundles are written for. Earlier ones from 2 on run."""


def library() -> Path:
    """Return the path of the shared library.
    Raises :class:`FileNotFoundError` where it was not built.
    """
    folder = Path(__file__).parent
    for name in ("libsc2onnx_kernels.so", "libsc2onnx_kernels.dylib", "libsc2onnx_kernels.dll"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"no library of kernels in {folder}: install sc2onnx-kernels again")
