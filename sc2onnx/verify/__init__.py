"""The bundle against torch: needs the ``verify`` extra (torch and transformers) beside the runtime."""

from __future__ import annotations

from sc2onnx.errors import MissingDependencyError

try:
    from sc2onnx.verify.run import TOLERANCE, verify
except ModuleNotFoundError as error:
    if (error.name or "").startswith("sc2onnx"):
        raise
    raise MissingDependencyError(f'verifying needs the package {error.name}: pip install "sc2onnx[cpu,verify]"') from error

__all__ = ["TOLERANCE", "verify"]
