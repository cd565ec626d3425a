"""Grouped-query attention as ONNX Runtime's own operator, over a cache that keeps every position:
what its CUDA provider has fast kernels for.

Position p lies in slot p. The operator turns queries and keys, writes the step's keys and values
behind those that are there, and lets the query at position q see ``q - window < p <= q``. Source:
``GroupQueryAttention`` of ONNX Runtime's contrib operators; its windows count the current token, as
transformers' do, since ONNX Runtime 1.24.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from sc2onnx.errors import RequestError
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.graph.activations import Activations
from sc2onnx.export.graph.attention import Attention
from sc2onnx.export.graph.caches import Caches, Pair
from sc2onnx.export.graph.ops import Recorder
from sc2onnx.export.weights import COS_CACHE, SIN_CACHE

HEAD_SIZES: Final = 16
"""The operator turns heads whose size is a multiple of this."""


def check_head_size(config: Starcoder2Config) -> None:
    """Raise :class:`RequestError` for heads that the operator does not take."""
    if config.head_dim % HEAD_SIZES:
        raise RequestError(
            f"heads are {config.head_dim} wide, expected a multiple of {HEAD_SIZES} for a GPU in "
            "half precision: choose --target cpu"
        )


@dataclass(frozen=True, slots=True)
class Ends:
    """Where the rows end after a step, as the operator wants it."""

    last: ir.Value  # (batch,), int32: each row's last position
    longest: ir.Value  # (), int32, on the CPU: tokens of the longest row, or more


def grouped_query_attention(
    op: Recorder,
    config: Starcoder2Config,
    input_ids: ir.Value,
    past: ir.Value,
    layers: range,
    *,
    activations: Activations,
) -> Attention:
    """Declare the cache inputs of these layers and return their attention.

    input_ids: (batch, step); past: (batch,).

    The operator wants each row's last position, and the longest of the rows on the CPU. The length
    of the step is summed up from the tokens, on the device: taken from a shape, it would be copied
    there in every step, which a captured CUDA graph must not. The longest row is only an upper
    bound to the kernels, so the capacity does, which is a shape and the same in every step. That
    makes every step of several tokens one that follows others, for which the operator takes a
    single row; steps of one token may have any number.
    """
    caches = _caches(op, config, layers, activations, ("capacity", "capacity"))
    # (batch, step)
    ones = op.Cast(op.Add(op.Mul(input_ids, op.ints(0)), op.ints(1)), to=ir.DataType.INT32)
    step = op.ReduceSum(ones, op.ints(1), keepdims=0)  # (batch,)
    # (batch,)
    last = op.Sub(op.Add(op.Cast(past, to=ir.DataType.INT32), step), op.scalar(1, np.int32))
    capacity = op.Cast(
        op.Squeeze(op.Shape(caches.past[layers[0]][0], start=2, end=3)), to=ir.DataType.INT32
    )
    return _attend(op, config, input_ids, Ends(last, capacity), caches, activations)


def masked_grouped_query_attention(
    op: Recorder,
    config: Starcoder2Config,
    input_ids: ir.Value,
    mask: ir.Value,
    layers: range,
    *,
    activations: Activations,
) -> Attention:
    """The same with the mask that onnxruntime-genai gives. input_ids: (batch, step); mask: (batch,
    past + step); padding is on the right.

    The cache may be as large as it will ever be, or grow with each step: the
    operator tells by the shapes.
    """
    caches = _caches(op, config, layers, activations, ("past", "total"))
    last = op.Sub(
        op.Cast(op.ReduceSum(mask, op.ints(1), keepdims=0), to=ir.DataType.INT32),
        op.scalar(1, np.int32),
    )
    total = op.Cast(op.Squeeze(op.Shape(mask, start=1, end=2)), to=ir.DataType.INT32)
    return _attend(op, config, input_ids, Ends(last, total), caches, activations)


def _caches(
    op: Recorder,
    config: Starcoder2Config,
    layers: range,
    activations: Activations,
    lengths: tuple[str, str],
) -> Caches:
    """Keys and values alike, (batch, kv_heads, length, head_dim): as they come, as they go."""
    kv_heads, head_dim = config.num_key_value_heads, config.head_dim
    given, result = (("batch", kv_heads, length, head_dim) for length in lengths)
    return Caches.declare(op, layers, activations.onnx, (given, given), (result, result))


def _attend(
    op: Recorder,
    config: Starcoder2Config,
    input_ids: ir.Value,
    ends: Ends,
    caches: Caches,
    activations: Activations,
) -> Attention:
    by_row = op.Concat(op.Shape(input_ids), op.ints(-1), axis=0)  # (3,): batch, step, channels
    attributes = {
        "num_heads": config.num_attention_heads,
        "kv_num_heads": config.num_key_value_heads,
        "do_rotary": 1,
        "local_window_size": -1 if config.sliding_window is None else config.sliding_window,
    }

    def attend(layer: int, qkv: ir.Value) -> tuple[ir.Value, Pair]:
        turns = (op.weight(COS_CACHE), op.weight(SIN_CACHE))
        inputs = (
            op.Reshape(qkv, by_row),
            None,
            None,
            *caches.past[layer],
            ends.last,
            ends.longest,
            *turns,
        )
        mixed, keys, values = op.contrib_outputs("GroupQueryAttention", 3, *inputs, **attributes)
        # ONNX's own inference knows nothing of the operator.
        mixed.type, mixed.shape = (
            ir.TensorType(activations.onnx),
            ir.Shape(("batch", "step", config.query_size)),
        )
        return op.Reshape(mixed, op.ints(-1, config.query_size)), (keys, values)

    return Attention(caches, attend)
