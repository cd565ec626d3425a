"""Attention's second product token by token, so that its sums do not depend on
how many tokens a step has.

ONNX Runtime sums a long product in parts, and longer ones the fewer columns it has
(:mod:`sc2onnx.bundle.steps`). The columns of ``values x weights`` are the query heads of
a key-value head for every token of the step. As a batch of products with the columns of
one token each, or of so many as fit into 16, the parts are always those of a step of
one, and so are the sums.

Worked example, 2 query heads to a key-value head: a step of 24 tokens is 3 products of 8
tokens, 16 columns each; a step of 25 is 25 products of 2 columns. With 12 heads, as in
StarCoder2-3B, a product is a token.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sc2onnx.bundle.steps import PANEL
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.graph.attention import Heads, Mix, RingStep
from sc2onnx.export.graph.ops import Recorder


def tokenwise(op: Recorder, config: Starcoder2Config, ring: RingStep, heads: Heads) -> Mix:
    """Attention whose result for a token is the same to the last bit in a step of any length."""
    kv_heads, head_dim, group = config.num_key_value_heads, config.head_dim, config.group_size
    by_head = op.Concat(op.ints(0, kv_heads, group), ring.step, op.ints(head_dim), axis=0)
    by_token = op.Concat(op.ints(0, kv_heads), ring.step, op.ints(group, -1), axis=0)
    columns = op.Concat(
        op.ints(0, kv_heads, -1), _columns(op, ring.step, group), ring.length, axis=0
    )
    joined = op.Concat(op.ints(0, kv_heads), ring.step, op.ints(group * head_dim), axis=0)
    spread = op.Concat(op.ints(0, 1), ring.step, op.ints(1, -1), axis=0)
    bias = op.Reshape(ring.bias, spread)  # (batch, 1, step, 1, length)

    def mix(q: ir.Value, keys: ir.Value, values: ir.Value) -> ir.Value:
        # (batch, kv, step, group, head_dim)
        turned = op.Transpose(op.Reshape(q, by_head), perm=[0, 1, 3, 2, 4])
        grouped = op.Reshape(turned, op.ints(0, kv_heads, -1, head_dim))
        weights = heads.softmax(grouped, keys, by_token, bias)  # (batch, kv, step, group, length)
        # (batch, kv, products, length, columns)
        split = op.Transpose(op.Reshape(weights, columns), perm=[0, 1, 2, 4, 3])
        # (batch, kv, products, head_dim, columns)
        mixed = op.MatMul(op.Unsqueeze(values, op.ints(2)), split)
        # (batch, kv, step, group * head_dim)
        tokens = op.Reshape(op.Transpose(mixed, perm=[0, 1, 2, 4, 3]), joined)
        return op.Reshape(op.Transpose(tokens, perm=[0, 2, 1, 3]), op.ints(-1, config.query_size))

    return mix


def _columns(op: Recorder, step: ir.Value, group: int) -> ir.Value:
    """Columns of one product: of as many tokens, a power of two that divides the step, as make
    at most :data:`PANEL`. (1,)
    """
    tokens = [2**power for power in range(PANEL.bit_length()) if 2**power * group <= PANEL]
    if len(tokens) < 2:
        return op.ints(group)
    fits = op.Cast(
        op.Equal(op.Mod(step, op.ints(*tokens)), op.scalar(0, np.int64)), to=ir.DataType.INT64
    )
    return op.Mul(op.ReduceMax(op.Mul(fits, op.ints(*tokens)), keepdims=1), op.ints(group))
