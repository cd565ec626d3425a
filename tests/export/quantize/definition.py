"""What quantised bytes mean, written out from the definitions of the operators:
shares no line with the codec.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[Any]


def meaning(codes: Integers, scales: Floats, block_size: int) -> Floats:
    """codes (rows, columns), scales (rows, columns / block_size) -> code times the scale of its
    block, rounded once to float32.
    """
    weights = np.empty(codes.shape, dtype=np.float32)
    for column in range(codes.shape[1]):
        weights[:, column] = codes[:, column].astype(np.float32) * scales[:, column // block_size]
    return weights


def numbers(data: bytes, bits: int, signed: bool) -> Integers:
    """The integers in bytes. 4 bits: the first in the low half.
    Signed: two's complement; unsigned: 8 or 128 stands for 0.
    """
    unsigned = np.frombuffer(data, dtype=np.uint8).astype(np.int64)
    if bits == 4:
        both = np.empty(2 * len(unsigned), dtype=np.int64)
        both[0::2], both[1::2] = unsigned % 16, unsigned // 16
        unsigned = both
    half = 2 ** (bits - 1)
    return np.where(unsigned >= half, unsigned - 2 * half, unsigned) if signed else unsigned - half


@dataclass(frozen=True)
class Matrix:
    """A matrix (out, in) as one node of a graph sees it."""

    weights: Floats
    bits: int
    block_size: int


def matrices(bundle: Path) -> dict[str, Matrix]:
    """Every quantised matrix of a bundle, by the name of its codes; where two nodes
    read one, both see the same.
    """
    found: dict[str, Matrix] = {}
    for path in sorted(bundle.glob("*.onnx")):
        if path.name.endswith(".kernels.onnx"):
            continue
        for name, matrix in _of_graph(onnx.load(path, load_external_data=False).graph, bundle):
            if name in found:
                np.testing.assert_array_equal(found[name].weights, matrix.weights)
            found[name] = matrix
    return found


def _of_graph(graph: onnx.GraphProto, bundle: Path) -> Iterator[tuple[str, Matrix]]:
    stored = {tensor.name: tensor for tensor in graph.initializer}
    widened = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    for node in graph.node:
        # columns, of which floats are made
        gathers = node.op_type == "Gather" and node.input[0].endswith(".codes")
        if (
            node.op_type not in ("MatMulNBits", "GatherBlockQuantized", "DequantizeLinear")
            and not gathers
        ):
            continue
        codes, scales = (
            (node.input[1], node.input[2])
            if node.op_type == "MatMulNBits"
            else (node.input[0], node.input[-1])
        )
        scales = widened.get(scales, scales)
        if gathers:
            scales = codes.replace(".codes", ".scales")
        yield (
            codes.removesuffix(".weight.codes"),
            _matrix(node, stored[codes], stored[scales], bundle),
        )


def _matrix(
    node: onnx.NodeProto, codes: onnx.TensorProto, scales: onnx.TensorProto, bundle: Path
) -> Matrix:
    says: Mapping[str, int] = {attribute.name: attribute.i for attribute in node.attribute}
    brain = scales.data_type == onnx.TensorProto.BFLOAT16
    assert brain or scales.data_type == onnx.TensorProto.FLOAT
    stored = np.frombuffer(_bytes(scales, bundle), dtype=ml_dtypes.bfloat16 if brain else "<f4")
    factors = stored.astype(np.float32).reshape(scales.dims)
    if node.op_type == "Gather":
        assert says["axis"] == 1
        says = {"axis": 0, "block_size": codes.dims[0] // scales.dims[0]}
    size = says["block_size"]
    if node.op_type in ("DequantizeLinear", "Gather"):
        bits = 4 if codes.data_type == onnx.TensorProto.INT4 else 8
        assert codes.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.INT8)
        assert says["axis"] == 0
        # (in, out)
        transposed = numbers(_bytes(codes, bundle), bits, signed=True).reshape(codes.dims)
        return Matrix(meaning(transposed.T, factors.T, size), bits, size)
    bits = says["bits"]
    assert codes.data_type == onnx.TensorProto.UINT8
    # (out, in)
    unpacked = numbers(_bytes(codes, bundle), bits, signed=False).reshape(codes.dims[0], -1)
    if node.op_type == "MatMulNBits":
        assert unpacked.shape == (says["N"], says["K"])
        assert list(codes.dims) == [says["N"], says["K"] // size, size * bits // 8]
    else:
        assert (says["gather_axis"], says["quantize_axis"]) == (0, 1)
    assert list(scales.dims) == [unpacked.shape[0], unpacked.shape[1] // size]
    return Matrix(meaning(unpacked, factors, size), bits, size)


def _bytes(tensor: onnx.TensorProto, bundle: Path) -> bytes:
    where: Mapping[str, str] = {entry.key: entry.value for entry in tensor.external_data}
    assert where["location"] == "model.onnx.data"
    with (bundle / where["location"]).open("rb") as file:
        file.seek(int(where["offset"]))
        return file.read(int(where["length"]))
