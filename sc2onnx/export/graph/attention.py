"""Grouped-query attention over a ring of key and value slots, from standard operators.

Position p lives in slot ``p mod C``. After a step that ends at position ``last``, slot j holds position
``last - ((last - j) mod C)``, or nothing if that is negative, and the query at position q sees it iff
``0 <= q - position < window``. Exact while ``C >= window + step - 1``, or C >= all positions.

Worked example, C = 4, window 3, a step of one token at position 5 (slots 0..3 hold positions 4, 5, 2, 3):
``last = 5``; slot 2: ``5 - ((5 - 2) mod 4) = 2``, and ``5 - 2 = 3`` is outside the window; slots 3, 0 and 1 hold 3, 4 and 5, inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.graph.activations import Activations
from sc2onnx.export.graph.layers import rotary, rotary_rows
from sc2onnx.export.graph.ops import Recorder
from sc2onnx.manifest import past_name, present_name

Attention = Callable[[int, ir.Value], ir.Value]
"""(layer, packed qkv (batch * step, (heads + 2 kv_heads) * head_dim)) -> (batch * step, heads * head_dim)."""


@dataclass(frozen=True, slots=True)
class RingStep:
    """What all layers share in one step: where to write, what is visible, how far to turn."""

    past: ir.Value  # (batch,)
    positions: ir.Value  # (batch, step)
    bias: ir.Value  # (batch, 1, 1, step, capacity), float32: 0 where visible, -inf where not
    cos: ir.Value  # (batch, step, head_dim / 2)
    sin: ir.Value  # (batch, step, head_dim / 2)
    tokens: ir.Value  # (2,): batch, step
    step: ir.Value  # (1,)
    capacity: ir.Value  # (1,)


def ring_step(op: Recorder, config: Starcoder2Config, input_ids: ir.Value, past: ir.Value, cache: ir.Value) -> RingStep:
    """Integer arithmetic of the ring. input_ids: (batch, step); past: (batch,); cache: any layer's keys, for the capacity."""
    step = op.Shape(input_ids, start=1, end=2)  # (1,)
    capacity = op.Shape(cache, start=2, end=3)  # (1,)
    zero, one = op.scalar(0, np.int64), op.scalar(1, np.int64)
    offsets = op.Range(zero, op.Squeeze(step), one)  # (step,)
    slots = op.Range(zero, op.Squeeze(capacity), one)  # (capacity,)
    first = op.Unsqueeze(past, op.ints(1))  # (batch, 1)
    positions = op.Add(first, offsets)  # (batch, step)
    last = op.Sub(op.Add(first, step), op.ints(1))  # (batch, 1)
    held = op.Sub(last, op.Mod(op.Sub(last, slots), capacity))  # (batch, capacity)
    distance = op.Sub(op.Unsqueeze(positions, op.ints(2)), op.Unsqueeze(held, op.ints(1)))  # (batch, step, capacity)
    visible = op.And(op.GreaterOrEqual(distance, zero), op.GreaterOrEqual(op.Unsqueeze(held, op.ints(1)), zero))
    if config.sliding_window is not None:
        visible = op.And(visible, op.Less(distance, op.scalar(config.sliding_window, np.int64)))
    bias = op.Where(visible, op.scalar(0.0, np.float32), op.scalar(-np.inf, np.float32))
    cos, sin = rotary_rows(op, positions)
    return RingStep(past, positions, op.Unsqueeze(bias, op.ints(1, 2)), cos, sin, op.Shape(input_ids), step, capacity)


Write = Callable[[ir.Value, ir.Value, int], ir.Value]
"""(cache, what is new of it, axis of the positions) -> the cache with the step in its slots."""

Writing = Callable[[Recorder, RingStep], Write]


def scatter(op: Recorder, ring: RingStep) -> Write:
    """By TensorScatter (opset 24), which ONNX Runtime does in place."""
    first = op.Mod(ring.past, ring.capacity)  # (batch,)
    return lambda cache, new, axis: op.TensorScatter(cache, new, first, axis=axis - 4, mode="circular")


def scatter_elements(op: Recorder, ring: RingStep) -> Write:
    """By an operator that every runtime has; slots by element: written out along the other axes."""
    slots = op.Mod(ring.positions, ring.capacity)  # (batch, step)
    along = {2: op.Unsqueeze(slots, op.ints(1, 3)), 3: op.Unsqueeze(slots, op.ints(1, 2))}
    return lambda cache, new, axis: op.ScatterElements(cache, op.Expand(along[axis], op.Shape(new)), new, axis=axis)


def ring_attention(
    op: Recorder,
    config: Starcoder2Config,
    input_ids: ir.Value,
    past: ir.Value,
    layers: range,
    *,
    activations: Activations,
    writing: Writing = scatter,
) -> Attention:
    """Declare the cache inputs of these layers and return the attention of one layer.

    The query heads of one key-value head share a single matrix product, so each cached row is read once per step
    instead of once per query head, and values are kept transposed, so that ONNX Runtime's product reads them as they lie
    (measured: docs/decisions/0001-ring-attention.md). The softmax is in float32 whatever
    the activations are, and queries are scaled before they meet the keys: in float16 the product itself must not overflow.
    """
    kv_heads, group, head_dim = config.num_key_value_heads, config.group_size, config.head_dim
    shapes: dict[str, tuple[int | str, ...]] = {
        "key": ("batch", kv_heads, "capacity", head_dim),
        "value": ("batch", kv_heads, head_dim, "capacity"),
    }
    caches = {layer: tuple(op.input(past_name(layer, kind), activations.onnx, shape) for kind, shape in shapes.items()) for layer in layers}
    ring = ring_step(op, config, input_ids, past, caches[layers[0]][0])
    write = writing(op, ring)
    heads = config.num_attention_heads
    split_shape = op.Concat(ring.tokens, op.ints(heads + 2 * kv_heads, head_dim), axis=0)
    grouped_shape = op.ints(0, kv_heads, -1, head_dim)
    scores_shape = op.Concat(op.ints(0, kv_heads, group), ring.step, op.ints(-1), axis=0)
    stacked_shape = op.Concat(op.ints(0, kv_heads, -1), ring.capacity, axis=0)
    heads_shape = op.Concat(op.ints(0, heads), ring.step, op.ints(head_dim), axis=0)
    scale = op.scalar(head_dim**-0.5, activations.numpy)

    def attend(layer: int, qkv: ir.Value) -> ir.Value:
        packed = op.Transpose(op.Reshape(qkv, split_shape), perm=[0, 2, 1, 3])  # (batch, heads + 2 kv, step, head_dim)
        qk, v = op.split(packed, (heads + kv_heads, kv_heads), axis=1)
        q, k = op.split(rotary(op, qk, ring.cos, ring.sin), (heads, kv_heads), axis=1)
        past_keys, past_values = caches[layer]
        keys = write(past_keys, k, 2)  # (batch, kv, capacity, head_dim)
        values = write(past_values, op.Transpose(v, perm=[0, 1, 3, 2]), 3)  # (batch, kv, head_dim, capacity)
        for (kind, shape), present in zip(shapes.items(), (keys, values), strict=True):
            op.output(present, present_name(layer, kind), activations.onnx, shape)
        grouped = op.Reshape(q, grouped_shape)  # (batch, kv, group * step, head_dim)
        scores = op.MatMul(op.Mul(grouped, scale), op.Transpose(keys, perm=[0, 1, 3, 2]))  # (batch, kv, group * step, capacity)
        masked = op.Add(activations.widen(op, op.Reshape(scores, scores_shape)), ring.bias)  # (batch, kv, group, step, capacity)
        weights = op.Reshape(activations.narrow(op, op.Softmax(masked, axis=-1)), stacked_shape)
        mixed = op.MatMul(values, op.Transpose(weights, perm=[0, 1, 3, 2]))  # (batch, kv, head_dim, group * step)
        # Turned in two simple steps: one transposition of all five axes takes ten times as long.
        by_head = op.Reshape(op.Transpose(mixed, perm=[0, 1, 3, 2]), heads_shape)  # (batch, heads, step, head_dim)
        return op.Reshape(op.Transpose(by_head, perm=[0, 2, 1, 3]), op.ints(-1, config.query_size))

    return attend
