"""Products with matrices in few bits: by ONNX Runtime's own operators,
or by standard ones alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import onnx_ir as ir

from sc2onnx.bundle.schemes import Scheme
from sc2onnx.export.graph.layers import Embed, Linear, Norm, Products, around, bias
from sc2onnx.export.graph.ops import Recorder
from sc2onnx.export.quantize.weights import EMBEDDING_PRODUCT, HEAD_PRODUCT, codes_name, scales_name

Schemes = Mapping[str, Scheme]
"""Scheme by product: the name of its weight without ``.weight``."""

_INT8_ACTIVATIONS: Final = 4
"""``accuracy_level``: activations are rounded to int8 per block too, the only fast way on a
CPU (findings, "ORT facts").
"""


def nbits_products(schemes: Schemes) -> Products:
    """``MatMulNBits`` with the bias inside, and ``GatherBlockQuantized`` on the same
    bytes where the head is tied.
    """

    def linear(op: Recorder, x: ir.Value, name: str) -> ir.Value:
        return _matmul(op, x, name, schemes[name], bias(op, name), accuracy_level=_INT8_ACTIVATIONS)

    return _products(linear, gathered(schemes))


def cuda_products(schemes: Schemes) -> Products:
    """The same operators as a GPU takes them: activations stay floats, and the
    fast kernels add no bias.
    """

    def linear(op: Recorder, x: ir.Value, name: str) -> ir.Value:
        y, added = _matmul(op, x, name, schemes[name], None), bias(op, name)
        return y if added is None else op.Add(y, added)

    return _products(linear, gathered(schemes))


def _products(linear: Linear, embed: Embed) -> Products:
    product = around(linear)

    def head(op: Recorder, x: ir.Value, norm: Norm) -> ir.Value:
        return product(op, x, HEAD_PRODUCT, norm=norm)

    return Products(product, embed, head)


def _matmul(
    op: Recorder, x: ir.Value, name: str, scheme: Scheme, bias: ir.Value | None, **attributes: int
) -> ir.Value:
    codes, scales = widened(op, name)
    attributes |= sizes(codes, scheme)
    return op.contrib("MatMulNBits", x, codes, scales, None, None, bias, **attributes)


def sizes(codes: ir.Value, scheme: Scheme) -> dict[str, int]:
    """Attributes that say what ``codes`` (out, blocks, bytes of a block) are."""
    rows, blocks, _ = codes.shape.numpy() if codes.shape is not None else (0, 0, 0)
    bits, size = scheme.bits, scheme.block_size
    return {"N": rows, "K": blocks * size, "bits": bits, "block_size": size}


def gathered(schemes: Schemes) -> Embed:
    """``GatherBlockQuantized``, on the bytes of the head where it is tied."""

    def embed(op: Recorder, ids: ir.Value) -> ir.Value:
        scheme, (codes, scales) = schemes[EMBEDDING_PRODUCT], widened(op, EMBEDDING_PRODUCT)
        how = {
            "gather_axis": 0,
            "quantize_axis": 1,
            "bits": scheme.bits,
            "block_size": scheme.block_size,
        }
        return op.contrib("GatherBlockQuantized", codes, ids, scales, **how)

    return embed


def standard_products(schemes: Schemes) -> Products:
    """``DequantizeLinear`` and ``MatMul`` on matrices that lie (in, out), which ONNX Runtime fuses
    into ``MatMulNBits`` at load.
    """

    def linear(op: Recorder, x: ir.Value, name: str) -> ir.Value:
        codes, scales = packed(op, name)  # (in, out), (in / block_size, out)
        y = op.MatMul(
            x, op.DequantizeLinear(codes, scales, axis=0, block_size=schemes[name].block_size)
        )
        added = bias(op, name)
        return y if added is None else op.Add(y, added)

    def embed(op: Recorder, ids: ir.Value) -> ir.Value:
        """What DequantizeLinear does, written out: OpenVINO has it for constants only."""
        # (hidden, tokens), (blocks, tokens)
        codes, scales = (op.Gather(part, ids, axis=1) for part in packed(op, EMBEDDING_PRODUCT))
        blocks = op.Reshape(
            op.Cast(codes, to=ir.DataType.FLOAT),
            op.Concat(op.Shape(scales, end=1), op.ints(-1), op.Shape(ids), axis=0),
        )
        floats = op.Mul(blocks, op.Unsqueeze(scales, op.ints(1)))  # (blocks, block_size, tokens)
        return op.Transpose(op.Reshape(floats, op.Shape(codes)), perm=[1, 0])

    return _products(linear, embed)


def packed(op: Recorder, name: str) -> tuple[ir.Value, ir.Value]:
    """Codes and scales of a product, as they are stored."""
    return op.weight(codes_name(name)), op.weight(scales_name(name))


def widened(op: Recorder, name: str) -> tuple[ir.Value, ir.Value]:
    """Codes and scales of a product: bfloat16 becomes float32, once, when ONNX Runtime loads it."""
    codes, scales = packed(op, name)
    if scales.dtype == ir.DataType.BFLOAT16:
        scales = op.Cast(scales, to=ir.DataType.FLOAT)
    return codes, scales
