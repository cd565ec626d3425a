"""Grouped-query attention over a cache that grows with each step, from standard operators: transformers' convention, which other runtimes follow.

They give an ``attention_mask`` (batch, past + step) of 1 for tokens and 0 for padding, on whichever side, and get back what they gave with
the step behind it. A row's positions count its tokens; the window counts places, as transformers' does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.graph.activations import Activations
from sc2onnx.export.graph.attention import Attention
from sc2onnx.export.graph.layers import rotary, rotary_rows
from sc2onnx.export.graph.ops import Recorder
from sc2onnx.manifest import past_name, present_name


@dataclass(frozen=True, slots=True)
class MaskedStep:
    """What all layers share in one step: what is visible, how far to turn."""

    bias: ir.Value  # (batch, 1, 1, step, total), float32: 0 where visible
    cos: ir.Value  # (batch, step, head_dim / 2)
    sin: ir.Value  # (batch, step, head_dim / 2)
    tokens: ir.Value  # (2,): batch, step
    step: ir.Value  # (1,)


def masked_step(op: Recorder, config: Starcoder2Config, input_ids: ir.Value, mask: ir.Value) -> MaskedStep:
    """input_ids: (batch, step); mask: (batch, total), total = past + step.

    What is hidden gets the lowest float, not -inf: the query of a padding token sees nothing, and a row of -inf has a softmax of NaN, which
    the next layer's values would spread. Worked example, total 5, step 2, window 3: the queries at places 3 and 4 see 1 to 3 and 2 to 4.
    """
    step, total = op.Shape(input_ids, start=1, end=2), op.Shape(mask, start=1, end=2)  # (1,)
    zero, one = op.scalar(0, np.int64), op.scalar(1, np.int64)
    counted = op.Sub(op.CumSum(mask, one), one)  # (batch, total): position of each token in its row
    positions = op.Max(op.Slice(counted, op.Sub(total, step), total, op.ints(1)), zero)  # (batch, step)
    keys = op.Range(zero, op.Squeeze(total), one)  # (total,)
    queries = op.Slice(keys, op.Sub(total, step), total, op.ints(0))  # (step,)
    distance = op.Sub(op.Unsqueeze(queries, op.ints(1)), keys)  # (step, total)
    visible = op.GreaterOrEqual(distance, zero)
    if config.sliding_window is not None:
        visible = op.And(visible, op.Less(distance, op.scalar(config.sliding_window, np.int64)))
    visible = op.And(visible, op.Unsqueeze(op.Cast(mask, to=ir.DataType.BOOL), op.ints(1)))  # (batch, step, total)
    bias = op.Where(visible, op.scalar(0.0, np.float32), op.scalar(float(np.finfo(np.float32).min), np.float32))
    cos, sin = rotary_rows(op, positions)
    return MaskedStep(op.Unsqueeze(bias, op.ints(1, 2)), cos, sin, op.Shape(input_ids), step)


def growing_attention(
    op: Recorder, config: Starcoder2Config, input_ids: ir.Value, mask: ir.Value, layers: range, *, activations: Activations
) -> Attention:
    """Declare the cache inputs of these layers and return the attention of one layer. input_ids: (batch, step); mask: (batch, past + step).

    The number of heads of what is given is left open: optimum makes an empty cache with one head for each query head where it does not know
    the architecture, so what is given is reshaped first, which changes nothing but that.
    """
    heads, kv_heads, group, head_dim = config.num_attention_heads, config.num_key_value_heads, config.group_size, config.head_dim
    given = ("batch", "cache_heads", "past", head_dim)
    result = ("batch", kv_heads, "total", head_dim)
    caches = {layer: [op.input(past_name(layer, kind), activations.onnx, given) for kind in ("key", "value")] for layer in layers}
    shared = masked_step(op, config, input_ids, mask)
    split_shape = op.Concat(shared.tokens, op.ints(heads + 2 * kv_heads, head_dim), axis=0)
    cache_shape = op.ints(0, kv_heads, -1, head_dim)
    scores_shape = op.Concat(op.ints(0, kv_heads, group), shared.step, op.ints(-1), axis=0)
    total = op.Shape(shared.bias, start=4, end=5)  # (1,)
    stacked_shape = op.Concat(op.ints(0, kv_heads, -1), total, axis=0)
    heads_shape = op.Concat(op.ints(0, heads), shared.step, op.ints(head_dim), axis=0)
    scale = op.scalar(head_dim**-0.5, activations.numpy)

    def attend(layer: int, qkv: ir.Value) -> ir.Value:
        packed = op.Transpose(op.Reshape(qkv, split_shape), perm=[0, 2, 1, 3])  # (batch, heads + 2 kv, step, head_dim)
        qk, v = op.split(packed, (heads + kv_heads, kv_heads), axis=1)
        q, k = op.split(rotary(op, qk, shared.cos, shared.sin), (heads, kv_heads), axis=1)
        keys, values = (op.Concat(op.Reshape(past, cache_shape), new, axis=2) for past, new in zip(caches[layer], (k, v), strict=True))
        for kind, present in (("key", keys), ("value", values)):  # (batch, kv, total, head_dim)
            op.output(present, present_name(layer, kind), activations.onnx, result)
        grouped = op.Reshape(q, op.ints(0, kv_heads, -1, head_dim))  # (batch, kv, group * step, head_dim)
        scores = op.MatMul(op.Mul(grouped, scale), op.Transpose(keys, perm=[0, 1, 3, 2]))  # (batch, kv, group * step, total)
        masked = op.Add(activations.widen(op, op.Reshape(scores, scores_shape)), shared.bias)  # (batch, kv, group, step, total)
        weights = op.Reshape(activations.narrow(op, op.Softmax(masked, axis=-1)), stacked_shape)
        mixed = op.Reshape(op.MatMul(weights, values), heads_shape)  # (batch, heads, step, head_dim)
        return op.Reshape(op.Transpose(mixed, perm=[0, 2, 1, 3]), op.ints(-1, config.query_size))

    return attend
