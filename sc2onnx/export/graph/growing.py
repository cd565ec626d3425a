"""Grouped-query attention over a cache that grows with each step, from standard operators:
transformers' convention, which other runtimes follow.

They give an ``attention_mask`` (batch, past + step) of 1 for tokens and 0 for padding, on whichever
side, and get back what they gave with the step behind it. A row's positions count its tokens; the
window counts places, as transformers' does.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.graph.activations import Activations
from sc2onnx.export.graph.attention import Attention, Heads, Step
from sc2onnx.export.graph.caches import Caches, Pair
from sc2onnx.export.graph.layers import rotary_rows
from sc2onnx.export.graph.ops import Recorder


def masked_step(
    op: Recorder, config: Starcoder2Config, input_ids: ir.Value, mask: ir.Value
) -> Step:
    """input_ids: (batch, step); mask: (batch, total), total = past + step.

    What is hidden gets the lowest float, not -inf: the query of a padding token sees nothing, and a
    row of -inf has a softmax of NaN, which the next layer's values would spread. Worked example,
    total 5, step 2, window 3: the queries at places 3 and 4 see 1 to 3 and 2 to 4.
    """
    step, total = op.Shape(input_ids, start=1, end=2), op.Shape(mask, start=1, end=2)  # (1,)
    zero, one = op.scalar(0, np.int64), op.scalar(1, np.int64)
    counted = op.Sub(op.CumSum(mask, one), one)  # (batch, total): position of each token in its row
    # (batch, step)
    positions = op.Max(op.Slice(counted, op.Sub(total, step), total, op.ints(1)), zero)
    keys = op.Range(zero, op.Squeeze(total), one)  # (total,)
    queries = op.Slice(keys, op.Sub(total, step), total, op.ints(0))  # (step,)
    distance = op.Sub(op.Unsqueeze(queries, op.ints(1)), keys)  # (step, total)
    visible = op.GreaterOrEqual(distance, zero)
    if config.sliding_window is not None:
        visible = op.And(visible, op.Less(distance, op.scalar(config.sliding_window, np.int64)))
    # (batch, step, total)
    visible = op.And(visible, op.Unsqueeze(op.Cast(mask, to=ir.DataType.BOOL), op.ints(1)))
    bias = op.Where(
        visible, op.scalar(0.0, np.float32), op.scalar(float(np.finfo(np.float32).min), np.float32)
    )
    cos, sin = rotary_rows(op, positions)
    return Step(op.Unsqueeze(bias, op.ints(1, 2)), cos, sin, op.Shape(input_ids), step, total)


def growing_attention(
    op: Recorder,
    config: Starcoder2Config,
    input_ids: ir.Value,
    mask: ir.Value,
    layers: range,
    *,
    activations: Activations,
) -> Attention:
    """Declare the cache inputs of these layers and return their attention.

    input_ids: (batch, step); mask: (batch, past + step).

    The number of heads of what is given is left open: optimum makes an empty cache with one head
    for each query head where it does not know the architecture, so what is given is reshaped first,
    which changes nothing but that.
    """
    kv_heads, head_dim = config.num_key_value_heads, config.head_dim
    given, result = (
        ("batch", "cache_heads", "past", head_dim),
        ("batch", kv_heads, "total", head_dim),
    )
    caches = Caches.declare(op, layers, activations.onnx, (given, given), (result, result))
    heads = Heads(op, config, masked_step(op, config, input_ids, mask), activations)

    def attend(layer: int, qkv: ir.Value) -> tuple[ir.Value, Pair]:
        q, k, v = heads.split(qkv)
        shape = op.ints(0, kv_heads, -1, head_dim)
        past_keys, past_values = caches.past[layer]
        keys = op.Concat(op.Reshape(past_keys, shape), k, axis=2)  # (batch, kv, total, head_dim)
        values = op.Concat(op.Reshape(past_values, shape), v, axis=2)
        return heads.join(op.MatMul(heads.weights(q, keys), values)), (keys, values)

    return Attention(caches, attend)
