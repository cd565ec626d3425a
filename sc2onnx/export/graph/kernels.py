"""The graph for the operators of the wheel sc2onnx-kernels: five nodes to a layer.

A product takes the norm before it, the activation behind it and what is added to it along;
attention turns, writes and reads the ring at once. Weights are those of the usual graph
(docs/bundle.md).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sc2onnx.bundle.kernels import ATTENTION, CACHE_ROWS, LINEAR, STEP_LENGTHS
from sc2onnx.export.config import ACTIVATIONS, Starcoder2Config
from sc2onnx.export.graph.activations import Activations
from sc2onnx.export.graph.attention import Attention
from sc2onnx.export.graph.caches import Caches, Pair
from sc2onnx.export.graph.layers import Norm, Products, bias
from sc2onnx.export.graph.model import Form
from sc2onnx.export.graph.ops import Recorder
from sc2onnx.export.graph.quantized import Schemes, gathered, packed, sizes
from sc2onnx.export.quantize.weights import HEAD_PRODUCT
from sc2onnx.export.weights import COS_CACHE, SIN_CACHE

SLOTS = "slot_bytes"
"""Bytes of a slot, which say in what form keys and values are kept: whoever runs it chooses."""


def computes(config: Starcoder2Config) -> bool:
    """Whether the operators have the model's activation."""
    return ACTIVATIONS[config.hidden_act] == "tanh"


def kernels_form(schemes: Schemes, activations: Activations) -> Form:
    """With what a graph is built that the operators compute. ``activations``: of float32."""
    return Form(_ring_attention, _products(schemes), activations)


def _products(schemes: Schemes) -> Products:
    def product(
        op: Recorder,
        x: ir.Value,
        name: str,
        *,
        norm: Norm | None = None,
        gelu: str | None = None,
        residual: ir.Value | None = None,
    ) -> ir.Value:
        codes, scales = packed(op, name)
        weight, shift = (None, None) if norm is None else norm.weights(op)
        more: dict[str, float] = {} if norm is None else {"epsilon": float(norm.epsilon)}
        more |= {} if gelu is None else {"gelu": 1}
        inputs = x, codes, scales, bias(op, name), weight, shift, residual
        (y,) = op.kernel(LINEAR, 1, *inputs, **sizes(codes, schemes[name]), **more)
        return y

    def head(op: Recorder, x: ir.Value, norm: Norm) -> ir.Value:
        return product(op, x, HEAD_PRODUCT, norm=norm)

    return Products(product, gathered(schemes), head)


def _ring_attention(
    op: Recorder,
    config: Starcoder2Config,
    input_ids: ir.Value,
    past: ir.Value,
    layers: range,
) -> Attention:
    """Declare the cache inputs of these layers, uint8, and return their attention."""
    ragged = [_optional(op, name) for name in (STEP_LENGTHS, CACHE_ROWS)]
    shape = ("rows", config.num_key_value_heads, "capacity", SLOTS)
    caches = Caches.declare(op, layers, ir.DataType.UINT8, (shape, shape))
    heads = {"num_heads": config.num_attention_heads, "num_kv_heads": config.num_key_value_heads}
    window = config.sliding_window or 0

    def attend(layer: int, qkv: ir.Value) -> tuple[ir.Value, Pair]:
        tables = op.weight(COS_CACHE), op.weight(SIN_CACHE)
        inputs = qkv, input_ids, past, *tables, *caches.past[layer], *ragged
        mixed, keys, values = op.kernel(ATTENTION, 3, *inputs, **heads, window=window)
        return mixed, (keys, values)

    return Attention(caches, attend)


def _optional(op: Recorder, name: str) -> ir.Value:
    """An input of so many numbers as there are runs, none unless it is fed."""
    value = op.input(name, ir.DataType.INT64, ("runs",))
    op.default(value, np.zeros(0, np.int64))
    return value
