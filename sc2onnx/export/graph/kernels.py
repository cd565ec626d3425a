"""The graph for the operators of the wheel sc2onnx-kernels: five nodes to a layer.

A product takes the norm before it, the activation behind it and what is added to it along;
attention turns, writes and reads the ring at once. Weights are those of the usual graph
(docs/bundle.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from sc2onnx.bundle.kernels import (
    ADAPTED,
    ADAPTER_OF_TOKEN,
    ADAPTER_SCALES,
    ADAPTER_TABLE,
    ADAPTER_WEIGHTS,
    ATTENTION,
    CACHE_ROWS,
    FINE_BITS,
    LINEAR,
    STEP_LENGTHS,
    VERSION,
    SegmentEntry,
    has_fine_head,
    product_number,
)
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
        fine: bool = False,
    ) -> ir.Value:
        codes, scales = packed(op, name)
        weight, shift = (None, None) if norm is None else norm.weights(op)
        more: dict[str, float] = {} if norm is None else {"epsilon": float(norm.epsilon)}
        more |= {} if gelu is None else {"gelu": 1}
        more |= {"activation_bits": FINE_BITS} if fine else {}
        number = _number(name)
        more |= {} if number is None else {"product": number}
        adapters = [] if number is None else _adapters(op)
        inputs = x, codes, scales, bias(op, name), weight, shift, residual, *adapters
        (y,) = op.kernel(LINEAR, 1, *inputs, **sizes(codes, schemes[name]), **more)
        return y

    def head(op: Recorder, x: ir.Value, norm: Norm) -> ir.Value:
        fine = has_fine_head(VERSION, schemes.values())
        return product(op, x, HEAD_PRODUCT, norm=norm, fine=fine)

    return Products(product, gathered(schemes), head)


def _ring_attention(
    op: Recorder,
    config: Starcoder2Config,
    input_ids: ir.Value,
    past: ir.Value,
    layers: range,
) -> Attention:
    """Declare the cache inputs of these layers, uint8, and return their attention."""
    ragged = [_optional(op, name, np.int64, ("runs",)) for name in (STEP_LENGTHS, CACHE_ROWS)]
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


def _number(name: str) -> int | None:
    """By which adapters know the product ``model.layers.<layer>.<product>``; None of the head."""
    _, _, inside = name.partition("model.layers.")
    layer, _, product = inside.partition(".")
    return product_number(int(layer), product) if product in ADAPTED else None


def _adapters(op: Recorder) -> list[ir.Value]:
    """The inputs of adapters, which all products of a graph share."""
    declared = {value.name: value for value in op.graph.inputs}
    entry = len(SegmentEntry._fields)
    inputs: dict[str, tuple[npt.DTypeLike, Sequence[int | str]]] = {
        ADAPTER_OF_TOKEN: (np.int64, ("tokens",)),
        ADAPTER_SCALES: (np.float32, ("scaled_tokens",)),
        ADAPTER_TABLE: (np.int64, ("adapters", "products", "segments", entry)),
        ADAPTER_WEIGHTS: (np.uint8, ("bytes",)),
    }
    return [declared.get(name) or _optional(op, name, *port) for name, port in inputs.items()]


def _optional(
    op: Recorder, name: str, dtype: npt.DTypeLike, shape: Sequence[int | str]
) -> ir.Value:
    """An input that is empty unless it is fed."""
    value = op.input(name, ir.DataType.from_numpy(np.dtype(dtype)), shape)
    empty = [size if isinstance(size, int) else 0 for size in shape]
    op.default(value, np.zeros(empty, dtype))
    return value
