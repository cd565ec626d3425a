"""Checkpoint -> bundle. Needs the ``export`` extra, never torch; never imported by the runtime."""

from __future__ import annotations

from sc2onnx.errors import MissingDependencyError
from sc2onnx.hints import install

try:
    from sc2onnx.export.calibration import Calibration
    from sc2onnx.export.convert import convert_adapter
    from sc2onnx.export.pipeline import export
    from sc2onnx.export.precision import PRECISIONS, TARGETS
except ModuleNotFoundError as error:
    if (error.name or "").startswith("sc2onnx"):
        raise
    raise MissingDependencyError(
        f"exporting needs the package {error.name}: {install('export')}"
    ) from error

__all__ = ["PRECISIONS", "TARGETS", "Calibration", "convert_adapter", "export"]
