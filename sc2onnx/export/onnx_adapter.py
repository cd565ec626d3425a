"""ONNX Runtime's own format of adapters, ``.onnx_adapter``, written without ONNX Runtime.

Source: ``onnxruntime/lora/adapter_format/adapter_schema.fbs``. A file is a flatbuffer: a table of
versions, and a table for each matrix with its name, shape, type and bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import flatbuffers
import numpy as np
import numpy.typing as npt

_IDENTIFIER: Final = b"TORT"
_FORMAT: Final = 1
_TYPES: Final = {"float32": 1, "float16": 10}
"""Numpy's name of a type -> ``TensorDataType``, as ONNX numbers it."""

_ALIGNED: Final = 64
"""Bytes: where the numbers of a matrix begin, for readers that map the file."""


def onnx_adapter(matrices: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """The bytes of a file with these matrices, float32 or float16, by name."""
    size = sum(matrix.nbytes for matrix in matrices.values())
    builder = flatbuffers.Builder(size + (len(matrices) << 9) + 1024)
    tables = [_parameter(builder, name, matrix) for name, matrix in matrices.items()]
    parameters = _vector(builder, tables)
    builder.StartObject(4)
    builder.PrependInt32Slot(0, _FORMAT, 0)
    builder.PrependInt32Slot(1, 1, 0)  # of the adapter
    builder.PrependInt32Slot(2, 1, 0)  # of its model
    builder.PrependUOffsetTRelativeSlot(3, parameters, 0)
    builder.Finish(builder.EndObject(), _IDENTIFIER)
    return bytes(builder.Output())


def _parameter(builder: Any, name: str, matrix: npt.NDArray[Any]) -> int:
    """A table, and where it is."""
    numbers = np.ascontiguousarray(matrix).view(np.uint8).reshape(-1)
    builder.StartVector(1, len(numbers), _ALIGNED)
    builder.head -= len(numbers)
    builder.Bytes[builder.head : builder.head + len(numbers)] = numbers.tobytes()
    data = builder.EndVector()
    dims = builder.CreateNumpyVector(np.array(matrix.shape, np.int64))
    called = builder.CreateString(name)
    builder.StartObject(4)
    builder.PrependUOffsetTRelativeSlot(0, called, 0)
    builder.PrependUOffsetTRelativeSlot(1, dims, 0)
    builder.PrependInt32Slot(2, _TYPES[matrix.dtype.name], 0)
    builder.PrependUOffsetTRelativeSlot(3, data, 0)
    return int(builder.EndObject())


def _vector(builder: Any, tables: list[int]) -> int:
    """Where a vector of tables is; a flatbuffer is built from its end."""
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return int(builder.EndVector())
