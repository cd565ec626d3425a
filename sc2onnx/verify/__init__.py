"""The bundle against torch: needs the ``verify`` extra (torch, transformers,
onnx-ir) beside the runtime.
"""

from __future__ import annotations

from sc2onnx.errors import MissingDependencyError
from sc2onnx.hints import install

try:
    from sc2onnx.verify.criterion import TOLERANCE
    from sc2onnx.verify.run import verify
    from sc2onnx.verify.source import torch_opener
except ModuleNotFoundError as error:
    if (error.name or "").startswith("sc2onnx"):
        raise
    raise MissingDependencyError(
        f"comparing with torch needs the package {error.name}: {install('cpu', 'verify')}"
    ) from error

__all__ = ["TOLERANCE", "torch_opener", "verify"]
