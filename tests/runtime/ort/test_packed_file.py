"""The file of packed weights, byte by byte, with a library that packs in its own way."""

from __future__ import annotations

import ctypes
import io
import struct
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sc2onnx.bundle.kernels import VERSION
from sc2onnx.runtime.opening.onnx_graph import Node, OnnxGraph, Place, Tensor
from sc2onnx.runtime.ort.kernels import Kernels, MatrixShape
from sc2onnx.runtime.ort.packed_file import ALIGNMENT, Contents, Matrix, matrices, write


class Backwards:
    """A library whose packed matrix is its codes and then its scales,
    backwards, and a byte more.
    """

    def sc2onnx_kernels_packed_bytes(self, *sizes: int) -> int:
        shape = MatrixShape(*sizes)
        return shape.codes + shape.scales + 1 if shape.columns % shape.block == 0 else -1

    def sc2onnx_kernels_pack(
        self,
        codes: int,
        scales: int,
        rows: int,
        columns: int,
        bits: int,
        block: int,
        scale_bytes: int,
        threads: int,
        out: int,
    ) -> int:
        shape = MatrixShape(rows, columns, bits, block, scale_bytes)
        data = ctypes.string_at(codes, shape.codes) + ctypes.string_at(scales, shape.scales)
        ctypes.memmove(out, data[::-1] + bytes([threads]), len(data) + 1)
        return 0 if threads else 1


KERNELS = Kernels(Path("library"), "0", "none", 7, VERSION, Backwards())
FIRST = Matrix(
    "a.weight.codes", MatrixShape(3, 32, 4, 16, 4), Place("data", 10, 58), Place("data", 100, 124)
)
SECOND = Matrix(
    "\u00e9", MatrixShape(2, 32, 8, 32, 4), Place("data", 200, 264), Place("data", 300, 308)
)
WEIGHTS = np.random.default_rng(0).integers(0, 256, 400, np.uint8).tobytes()


def written(*wanted: Matrix, weights: bytes = WEIGHTS, threads: int = 2) -> bytes:
    file = io.BytesIO()
    with tempfile.TemporaryFile() as source:  # numpy reads by the descriptor
        source.write(weights)
        source.flush()
        write(file, source, wanted, KERNELS, threads)
    return file.getvalue()


def read(data: bytes) -> dict[str, tuple[tuple[int, ...], bytes]]:
    """As the library reads it: name -> shape, and the matrix."""
    magic, layout, count = struct.unpack_from("<8sII", data)
    assert (magic, layout) == (b"SC2ONNXP", 7)
    found, at = {}, 16
    for _ in range(count):
        (length,) = struct.unpack_from("<I", data, at)
        name = data[at + 4 : at + 4 + length].decode()
        *shape, offset, size = struct.unpack_from("<qqiiiqq", data, at + 4 + length)
        assert offset % ALIGNMENT == 0
        assert offset + size <= len(data)
        found[name] = (tuple(shape), data[offset : offset + size])
        at += 4 + length + 44
    return found


def test_what_is_written_can_be_read() -> None:
    data = written(FIRST, SECOND)
    found = read(data)
    assert set(found) == {"a.weight.codes", "\u00e9"}
    assert found["a.weight.codes"] == (
        (3, 32, 4, 16, 4),
        (WEIGHTS[10:58] + WEIGHTS[100:124])[::-1] + b"\x02",
    )
    assert found["\u00e9"] == (
        (2, 32, 8, 32, 4),
        (WEIGHTS[200:264] + WEIGHTS[300:308])[::-1] + b"\x02",
    )
    assert len(data) == Contents.of([FIRST, SECOND], KERNELS).end == 2 * ALIGNMENT + 73


def test_weights_that_are_cut_off() -> None:
    with pytest.raises(ValueError, match="the weights end at 263, expected 264"):
        written(FIRST, SECOND, weights=WEIGHTS[:263])


def test_what_no_kernel_computes_with() -> None:
    with pytest.raises(ValueError, match="has no kernel for"):
        written(replace(FIRST, shape=MatrixShape(3, 40, 4, 16, 4)))
    with pytest.raises(ValueError, match="did not pack"):
        written(FIRST, threads=0)
    with pytest.raises(ValueError, match="have 47 and 24 bytes, expected 48 and 24"):
        written(replace(FIRST, codes=Place("data", 11, 58)))


def graph(*nodes: Node, **tensors: Tensor) -> OnnxGraph:
    return OnnxGraph({}, {}, {}, nodes, tensors)


def product(codes: str = "codes", scales: str = "scales", **attributes: Any) -> Node:
    sizes = {"N": (3,), "K": (32,), "bits": (4,), "block_size": (16,), **attributes}
    return Node("sc2onnx.BlockwiseLinear", ("x", codes, scales), ("y",), sizes)


CODES, SCALES = (
    Tensor("codes", 2, (3, 2, 8), place=Place("data", 10, 58)),
    Tensor("scales", 1, (3, 2), place=Place("data", 100, 124)),
)


def test_the_matrices_of_graphs_each_once() -> None:
    one = graph(product(), Node("Add", ("x", "y"), ("z",), {}), codes=CODES, scales=SCALES)
    assert matrices([one, one]) == (replace(FIRST, name="codes"),)


@pytest.mark.parametrize(
    "node",
    [
        product(codes="absent"),
        product(scales=""),
        product(N=(4,)),
        product(bits=(8,)),
        product(K=(0,)),
        product(block_size=1.0),
        product(N=(3, 3)),
    ],
)
def test_products_whose_sizes_contradict_each_other(node: Node) -> None:
    with pytest.raises(
        ValueError, match=r"is none with weights of the bundle|bytes of codes and scales"
    ):
        matrices([graph(node, codes=CODES, scales=SCALES)])


def test_packing_takes_arrays_that_lie_anyhow() -> None:
    codes: npt.NDArray[np.uint8] = np.arange(96, dtype=np.uint8)[::2]
    packed = KERNELS.packed(FIRST.shape, codes, np.zeros(24, np.uint8), 1)
    assert packed[24:-1].tolist() == codes[::-1].tolist()
