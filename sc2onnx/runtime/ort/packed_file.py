"""The file of packed weights: every matrix of a bundle's graphs for the
kernels, as the kernels read it.

``SC2ONNXP``, the version of the layout and the number of matrices (uint32 each), then of each
matrix the length of its name (uint32) and the name (UTF-8; it is that of its codes in the graph),
rows and columns (int64), bits, block size and bytes of a scale (int32), offset and bytes (int64);
then the matrices, at multiples of 4096 bytes. All numbers are little-endian. The kernels map the
file and find a matrix by its name.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.kernels import DOMAIN, LINEAR
from sc2onnx.runtime.cache.shape import round_up
from sc2onnx.runtime.opening.onnx_graph import BITS, Node, OnnxGraph, Place
from sc2onnx.runtime.ort.kernels import Kernels, MatrixShape

MAGIC: Final = b"SC2ONNXP"

ALIGNMENT: Final = 4096
"""Matrices begin at multiples of it: pages are mapped whole."""

_HEAD: Final = struct.Struct("<8sII")
_LENGTH: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<qqiiiqq")


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix of the graphs: the name of its codes, its shape, and where codes and
    scales lie in the weights file.
    """

    name: str
    shape: MatrixShape
    codes: Place
    scales: Place


def matrices(graphs: Iterable[OnnxGraph]) -> tuple[Matrix, ...]:
    """The matrices that the graphs' products multiply with, each once.
    Raises :class:`ValueError` for sizes that contradict each other.
    """
    found = [
        _matrix(graph, node)
        for graph in graphs
        for node in graph.nodes
        if node.operator == f"{DOMAIN}.{LINEAR}"
    ]
    return tuple({matrix.name: matrix for matrix in found}.values())


def _matrix(graph: OnnxGraph, node: Node) -> Matrix:
    numbers = (node.attributes.get(name) for name in ("N", "K", "bits", "block_size"))
    sizes = [value[0] if isinstance(value, tuple) and len(value) == 1 else 0 for value in numbers]
    tensors = [graph.tensors.get(name) for name in node.inputs[1:3]]
    places = [tensor.place for tensor in tensors if tensor is not None and tensor.place is not None]
    if min(sizes) < 1 or len(places) != 2:
        raise ValueError(
            f"a product of {node.inputs[1:3]} and {sizes} is none with weights of the bundle"
        )
    scale_bytes = BITS[graph.tensors[node.inputs[2]].data_type] // 8
    rows, columns, bits, block = sizes
    shape = MatrixShape(rows, columns, bits, block, scale_bytes)
    matrix = Matrix(node.inputs[1], shape, *places)
    found = tuple(place.end - place.start for place in places)
    if found != (matrix.shape.codes, matrix.shape.scales):
        raise ValueError(
            f"{matrix.name[:80]} has {found} bytes of codes and scales, expected "
            f"those of {matrix.shape}"
        )
    return matrix


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file of packed weights will be: its first bytes, and where each matrix goes."""

    head: bytes
    offsets: tuple[int, ...]
    end: int

    @classmethod
    def of(cls, matrices: Sequence[Matrix], kernels: Kernels) -> Contents:
        """Raises :class:`ValueError` for a matrix that no kernel computes with."""
        sizes = [kernels.packed_bytes(matrix.shape) for matrix in matrices]
        names = [matrix.name.encode() for matrix in matrices]
        end = _HEAD.size + sum(_LENGTH.size + len(name) + _ENTRY.size for name in names)
        offsets = list[int]()
        for size in sizes:
            offsets.append(round_up(end, ALIGNMENT))
            end = offsets[-1] + size
        parts = [_HEAD.pack(MAGIC, kernels.layout, len(matrices))]
        for matrix, name, offset, size in zip(matrices, names, offsets, sizes, strict=True):
            entry = _ENTRY.pack(*astuple(matrix.shape), offset, size)
            parts += [_LENGTH.pack(len(name)), name, entry]
        return cls(b"".join(parts), tuple(offsets), end)


def write(
    file: BinaryIO, weights: BinaryIO, matrices: Sequence[Matrix], kernels: Kernels, threads: int
) -> None:
    """Write the packed weights. Holds one matrix in memory, twice.

    Read and written, not mapped: a file that another process cuts off, or a disk that is full, is
    then an error and not the end of the process. Raises :class:`OSError`, and :class:`ValueError`
    as :meth:`Contents.of` or for weights that are too short.
    """
    contents = Contents.of(matrices, kernels)
    file.write(contents.head)
    for matrix, offset in zip(matrices, contents.offsets, strict=True):
        file.write(bytes(offset - file.tell()))
        codes, scales = _read(weights, matrix.codes), _read(weights, matrix.scales)
        file.write(kernels.packed(matrix.shape, codes, scales, threads).data)


def _read(weights: BinaryIO, place: Place) -> npt.NDArray[np.uint8]:
    weights.seek(place.start)
    found = np.fromfile(weights, np.uint8, place.end - place.start)
    if len(found) != place.end - place.start:
        raise ValueError(f"the weights end at {place.start + len(found)}, expected {place.end}")
    return found
