"""Records nodes into an ONNX graph: ``op.MatMul(x, y)`` reads like the equation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir import tape

from sc2onnx.bundle import kernels

OPSET: Final = 24
"""The first opset with TensorScatter."""

PORTABLE_OPSET: Final = 23
"""The first opset with RotaryEmbedding; what runtimes other than ONNX Runtime read."""

CUDA_OPSET: Final = 21
"""Grouped-query attention is one contrib operator; the rest is older, and ONNX Runtime's CUDA
provider has kernels for all of it.
"""

IR_VERSION: Final = 11
"""The IR version that came with opset 23 and 24's first releases; older
runtimes refuse newer ones.
"""


CONTRIB: Final = "com.microsoft"
"""Domain of ONNX Runtime's operators that the ONNX standard does not have."""


class Recorder:
    """Builds one graph. Attribute access gives an operator: inputs by position,
    ONNX attributes by keyword.

    ``weights`` gives the shape and type of every weight by name; their bytes
    are the writer's business.
    """

    def __init__(
        self, name: str, weights: Mapping[str, ir.TensorProtocol], opset: int = OPSET
    ) -> None:
        self.graph = ir.Graph([], [], nodes=[], opset_imports={"": opset}, name=name)
        self._tape = tape.Tape(self.graph)
        self._weights = weights

    def __getattr__(self, operator: str) -> Callable[..., ir.Value]:
        if not operator[0].isupper():
            raise AttributeError(operator)

        def record(*inputs: ir.Value | None, **attributes: Any) -> ir.Value:
            return self._tape.op(operator, list(inputs), attributes)

        return record

    def contrib(self, operator: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """An operator of ONNX Runtime's own domain."""
        self.graph.opset_imports[CONTRIB] = 1
        return self._tape.op(operator, list(inputs), attributes, domain=CONTRIB)

    def contrib_outputs(
        self, operator: str, outputs: int, *inputs: ir.Value | None, **attributes: Any
    ) -> Sequence[ir.Value]:
        """The same with several outputs."""
        self.graph.opset_imports[CONTRIB] = 1
        return self._tape.op_multi_out(
            operator, list(inputs), attributes, domain=CONTRIB, num_outputs=outputs
        )

    def kernel(
        self,
        operator: str,
        outputs: int,
        *inputs: ir.Value | None,
        **attributes: Any,
    ) -> Sequence[ir.Value]:
        """An operator of the wheel sc2onnx-kernels. Inputs left out at the end are not written."""
        self.graph.opset_imports[kernels.DOMAIN] = kernels.VERSION
        last = max(number for number, value in enumerate(inputs, 1) if value is not None)
        given, domain = list(inputs[:last]), kernels.DOMAIN
        return self._tape.op_multi_out(
            operator, given, attributes, domain=domain, num_outputs=outputs
        )

    def split(self, value: ir.Value, sizes: Sequence[int], axis: int) -> Sequence[ir.Value]:
        """Parts of these sizes along an axis."""
        return self._tape.op_multi_out(
            "Split", [value, self.ints(*sizes)], {"axis": axis}, num_outputs=len(sizes)
        )

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        """A graph input; names in the shape are dynamic dimensions."""
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self.graph.inputs.append(value)
        return value

    def default(self, value: ir.Value, data: npt.NDArray[Any]) -> None:
        """Make a graph input optional: an initializer of the same name is
        its value where none is fed.
        """
        value.const_value = ir.tensor(data, name=value.name)
        self.graph.register_initializer(value)

    def output(
        self, value: ir.Value, name: str, dtype: ir.DataType, shape: Sequence[int | str]
    ) -> None:
        """Make a value a graph output under a name of the contract."""
        value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(shape)
        self.graph.outputs.append(value)

    def has_weight(self, name: str) -> bool:
        """Whether there is a weight of this name (biases are optional)."""
        return name in self._weights

    def weight(self, name: str) -> ir.Value:
        """The weight as a graph value; the same value however often it is asked for."""
        return self._initializer(name, self._weights[name])

    def ints(self, *values: int) -> ir.Value:
        """A constant int64 vector, made once."""
        return self._constant(
            "ints_" + "_".join(map(str, values)).replace("-", "m"), np.array(values, dtype=np.int64)
        )

    def scalar(self, value: float, dtype: npt.DTypeLike) -> ir.Value:
        """A constant scalar, made once."""
        array = np.array(value, dtype=dtype)
        return self._constant(f"{array.dtype.name}_{value!r}".replace("-", "m"), array)

    def _constant(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        return self._initializer(f"constant.{name}", ir.tensor(array, name=f"constant.{name}"))

    def _initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        if name not in self.graph.initializers:
            value = ir.Value(
                name=name,
                type=ir.TensorType(tensor.dtype),
                shape=ir.Shape(tensor.shape.numpy()),
                const_value=tensor,
            )
            self.graph.register_initializer(value)
        return self.graph.initializers[name]
