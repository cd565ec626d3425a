"""The type that a graph computes in, and the way into float32 and back where range
or the contract ask for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from sc2onnx.export.graph.ops import Recorder


@dataclass(frozen=True, slots=True)
class Activations:
    """Activations and cache of this numpy type: float32, float16 or bfloat16.
    In float32 nothing is cast.
    """

    numpy: np.dtype[Any]

    @property
    def onnx(self) -> ir.DataType:
        """The same type, as ONNX numbers it."""
        return ir.DataType.from_numpy(self.numpy)

    def widen(self, op: Recorder, value: ir.Value) -> ir.Value:
        """The value in float32."""
        return value if self.onnx == ir.DataType.FLOAT else op.Cast(value, to=ir.DataType.FLOAT)

    def narrow(self, op: Recorder, value: ir.Value) -> ir.Value:
        """A float32 value, rounded to this type."""
        return value if self.onnx == ir.DataType.FLOAT else op.Cast(value, to=self.onnx)
