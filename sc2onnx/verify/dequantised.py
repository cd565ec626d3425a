"""What a bundle with quantised weights multiplies with, by the names of the checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.schemes import Scheme
from sc2onnx.evaluate.measure import Floats
from sc2onnx.export.quantize.codec import unpack
from sc2onnx.export.quantize.weights import codes_name, scales_name

Shapes = Mapping[str, tuple[int, ...]]

_PART = re.compile(r"\.([qkv])_proj\.")


def parameters(bundle: Path, shapes: Shapes) -> Iterator[tuple[str, Floats]]:
    """Every parameter of ``shapes`` (name -> shape, as transformers has them), as the bundle at
    ``bundle`` keeps it, one at a time.
    """
    initializers: dict[str, ir.Value] = {}
    for name in Manifest.read(bundle).graphs:
        initializers |= ir.load(bundle / name).graph.initializers
    for name, shape in shapes.items():
        packed, first = _place(name, shapes)
        rows = slice(first, first + shape[0])
        product = packed.removesuffix(".weight")
        if packed in initializers:
            yield name, _array(initializers, packed)[rows].astype(np.float32)
        else:
            codes, scales = (
                _array(initializers, part(product)) for part in (codes_name, scales_name)
            )
            yield name, _dequantised(codes, scales.astype(np.float32), rows, shape)


def _place(name: str, shapes: Shapes) -> tuple[str, int]:
    """Name in the graph, and the row there at which the parameter begins: queries, keys
    and values are one matrix.
    """
    found = _PART.search(name)
    if found is None:
        return name, 0
    before = "qkv"[: "qkv".index(found[1])]
    return _PART.sub(".qkv_proj.", name), sum(
        shapes[_PART.sub(f".{part}_proj.", name)][0] for part in before
    )


def _array(initializers: Mapping[str, ir.Value], name: str) -> npt.NDArray[Any]:
    tensor = initializers[name].const_value
    assert tensor is not None
    return np.asarray(tensor.numpy())


def _dequantised(
    codes: npt.NDArray[Any], scales: Floats, rows: slice, shape: tuple[int, ...]
) -> Floats:
    """Codes as in :mod:`sc2onnx.export.quantize.weights`: packed bytes by output, or integers (in,
    out) -> float32 of ``shape``, (out, in).
    """
    if codes.dtype == np.uint8:
        packed, scales = codes[rows].reshape(shape[0], -1), scales[rows]
        bits = 8 * packed.shape[1] // shape[1]
        integers = unpack(packed, Scheme(bits, shape[1] // scales.shape[1]))
    else:
        integers, scales = codes[:, rows].T.astype(np.int8), scales[:, rows].T
    return np.asarray(
        integers * np.repeat(scales, shape[1] // scales.shape[1], axis=1), dtype=np.float32
    )
