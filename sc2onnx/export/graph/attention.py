"""Grouped-query attention over a ring of key and value slots, from standard operators.

Position p lives in slot ``p mod C``. After a step that ends at position ``last``, slot j
holds position ``last - ((last - j) mod C)``, or nothing if that is negative, and the query
at position q sees it iff ``0 <= q - position < window``. Exact while
``C >= window + step - 1``, or C >= all positions.

Worked example, C = 4, window 3, a step of one token at position 5 (slots 0..3 hold positions 4, 5,
2, 3): ``last = 5``; slot 2: ``5 - ((5 - 2) mod 4) = 2``, and ``5 - 2 = 3`` is outside the window;
slots 3, 0 and 1 hold 3, 4 and 5, inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.graph.activations import Activations
from sc2onnx.export.graph.caches import Caches, Pair
from sc2onnx.export.graph.layers import rotary, rotary_rows
from sc2onnx.export.graph.ops import Recorder

Attend = Callable[[int, ir.Value], tuple[ir.Value, Pair]]
"""(layer, packed qkv (batch * step, (heads + 2 kv_heads) * head_dim)) -> (batch * step, heads *
head_dim), and the layer's keys and values with the step among them."""


@dataclass(frozen=True, slots=True)
class Attention:
    """The attention of some layers, and the caches that it reads."""

    caches: Caches
    attend: Attend


@dataclass(frozen=True, slots=True)
class Step:
    """What all layers share in one step: what is visible, how far to turn."""

    bias: ir.Value  # (batch, 1, 1, step, length), float32: 0 where visible
    cos: ir.Value  # (batch, step, head_dim / 2)
    sin: ir.Value  # (batch, step, head_dim / 2)
    tokens: ir.Value  # (2,): batch, step
    step: ir.Value  # (1,)
    length: ir.Value  # (1,): places that keys have, the step's among them


@dataclass(frozen=True, slots=True)
class RingStep(Step):
    """And where to write. ``length`` is the capacity of the ring; ``bias`` is -inf
    where nothing is visible.
    """

    past: ir.Value  # (batch,)
    positions: ir.Value  # (batch, step)


class Heads:
    """Queries, keys and values by head, the query heads of one key-value head together.
    The shapes are made once, for all layers.

    The softmax is in float32 whatever the activations are, and queries are scaled before they meet
    the keys: in float16 the product itself must not overflow.
    """

    def __init__(
        self, op: Recorder, config: Starcoder2Config, step: Step, activations: Activations
    ) -> None:
        heads, kv_heads, head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        self._op, self._step, self._activations = op, step, activations
        self._counts, self._query_size = (heads, kv_heads), config.query_size
        self._split = op.Concat(step.tokens, op.ints(heads + 2 * kv_heads, head_dim), axis=0)
        self._grouped = op.ints(0, kv_heads, -1, head_dim)
        self._scores = op.Concat(
            op.ints(0, kv_heads, config.group_size), step.step, op.ints(-1), axis=0
        )
        self._stacked = op.Concat(op.ints(0, kv_heads, -1), step.length, axis=0)
        self._by_head = op.Concat(op.ints(0, heads), step.step, op.ints(head_dim), axis=0)
        self._scale = op.scalar(head_dim**-0.5, activations.numpy)

    def split(self, qkv: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """(batch * step, (heads + 2 kv) * head_dim) -> turned queries and keys, and values, (batch,
        heads or kv, step, head_dim) each.
        """
        op, (heads, kv_heads) = self._op, self._counts
        # (batch, heads + 2 kv, step, head_dim)
        packed = op.Transpose(op.Reshape(qkv, self._split), perm=[0, 2, 1, 3])
        qk, v = op.split(packed, (heads + kv_heads, kv_heads), axis=1)
        q, k = op.split(rotary(op, qk, self._step.cos, self._step.sin), (heads, kv_heads), axis=1)
        return q, k, v

    def weights(self, q: ir.Value, keys: ir.Value) -> ir.Value:
        """q (batch, heads, step, head_dim), keys (batch, kv, length, head_dim) -> softmax of their
        scores, (batch, kv, group * step, length).
        """
        grouped = self._op.Reshape(q, self._grouped)  # (batch, kv, group * step, head_dim)
        return self._op.Reshape(
            self.softmax(grouped, keys, self._scores, self._step.bias), self._stacked
        )

    def softmax(
        self, grouped: ir.Value, keys: ir.Value, shape: ir.Value, bias: ir.Value
    ) -> ir.Value:
        """grouped (batch, kv, n, head_dim), keys (batch, kv, length, head_dim) -> weights of
        ``shape``, five axes, to which ``bias`` spreads.
        """
        op, activations = self._op, self._activations
        # (batch, kv, n, length)
        scores = op.MatMul(op.Mul(grouped, self._scale), op.Transpose(keys, perm=[0, 1, 3, 2]))
        return activations.narrow(
            op, op.Softmax(op.Add(activations.widen(op, op.Reshape(scores, shape)), bias), axis=-1)
        )

    def join(self, mixed: ir.Value) -> ir.Value:
        """(batch, kv, group * step, head_dim) -> (batch * step, heads * head_dim)."""
        op = self._op
        by_head = op.Reshape(mixed, self._by_head)  # (batch, heads, step, head_dim)
        return op.Reshape(op.Transpose(by_head, perm=[0, 2, 1, 3]), op.ints(-1, self._query_size))


def ring_step(
    op: Recorder, config: Starcoder2Config, input_ids: ir.Value, past: ir.Value, cache: ir.Value
) -> RingStep:
    """Integer arithmetic of the ring. input_ids: (batch, step); past: (batch,); cache: any
    layer's keys, for the capacity.
    """
    step = op.Shape(input_ids, start=1, end=2)  # (1,)
    capacity = op.Shape(cache, start=2, end=3)  # (1,)
    zero, one = op.scalar(0, np.int64), op.scalar(1, np.int64)
    offsets = op.Range(zero, op.Squeeze(step), one)  # (step,)
    slots = op.Range(zero, op.Squeeze(capacity), one)  # (capacity,)
    first = op.Unsqueeze(past, op.ints(1))  # (batch, 1)
    positions = op.Add(first, offsets)  # (batch, step)
    last = op.Sub(op.Add(first, step), op.ints(1))  # (batch, 1)
    held = op.Sub(last, op.Mod(op.Sub(last, slots), capacity))  # (batch, capacity)
    # (batch, step, capacity)
    distance = op.Sub(op.Unsqueeze(positions, op.ints(2)), op.Unsqueeze(held, op.ints(1)))
    visible = op.And(
        op.GreaterOrEqual(distance, zero), op.GreaterOrEqual(op.Unsqueeze(held, op.ints(1)), zero)
    )
    if config.sliding_window is not None:
        visible = op.And(visible, op.Less(distance, op.scalar(config.sliding_window, np.int64)))
    bias = op.Where(visible, op.scalar(0.0, np.float32), op.scalar(-np.inf, np.float32))
    cos, sin = rotary_rows(op, positions)
    return RingStep(
        op.Unsqueeze(bias, op.ints(1, 2)),
        cos,
        sin,
        op.Shape(input_ids),
        step,
        capacity,
        past,
        positions,
    )


Write = Callable[[ir.Value, ir.Value, int], ir.Value]
"""(cache, what is new of it, axis of the positions) -> the cache with the step in its slots."""

Writing = Callable[[Recorder, RingStep], Write]


def scatter(op: Recorder, ring: RingStep) -> Write:
    """By TensorScatter (opset 24), which ONNX Runtime does in place."""
    first = op.Mod(ring.past, ring.length)  # (batch,)
    return lambda cache, new, axis: op.TensorScatter(
        cache, new, first, axis=axis - 4, mode="circular"
    )


def scatter_elements(op: Recorder, ring: RingStep) -> Write:
    """By an operator that every runtime has; slots by element: written out along the other axes."""
    slots = op.Mod(ring.positions, ring.length)  # (batch, step)
    along = {2: op.Unsqueeze(slots, op.ints(1, 3)), 3: op.Unsqueeze(slots, op.ints(1, 2))}
    return lambda cache, new, axis: op.ScatterElements(
        cache, op.Expand(along[axis], op.Shape(new)), new, axis=axis
    )


Mix = Callable[[ir.Value, ir.Value, ir.Value], ir.Value]
"""(queries (batch, heads, step, head_dim), keys and values as the ring holds them) ->
(batch * step, heads * head_dim).
"""

Mixing = Callable[[Recorder, Starcoder2Config, RingStep, Heads], Mix]
"""How queries, keys and values become the attention's output."""


def together(op: Recorder, config: Starcoder2Config, ring: RingStep, heads: Heads) -> Mix:
    """All tokens of a step in one product: the fastest, but its sums depend on how many
    there are (:mod:`.tokenwise`).
    """

    def mix(q: ir.Value, keys: ir.Value, values: ir.Value) -> ir.Value:
        # (batch, kv, head_dim, group * step)
        mixed = op.MatMul(values, op.Transpose(heads.weights(q, keys), perm=[0, 1, 3, 2]))
        # Turned in two simple steps: one transposition of all five axes takes ten times as long.
        return heads.join(op.Transpose(mixed, perm=[0, 1, 3, 2]))

    return mix


def ring_attention(
    op: Recorder,
    config: Starcoder2Config,
    input_ids: ir.Value,
    past: ir.Value,
    layers: range,
    *,
    activations: Activations,
    writing: Writing = scatter,
    mixing: Mixing = together,
) -> Attention:
    """Declare the cache inputs of these layers and return their attention.

    The query heads of one key-value head share a single matrix product, so each cached row is read
    once per step instead of once per query head, and values are kept transposed, so that ONNX
    Runtime's product reads them as they lie (measured: docs/decisions/0001-ring-attention.md).
    """
    kv_heads, head_dim = config.num_key_value_heads, config.head_dim
    by_slot = ("batch", kv_heads, "capacity", head_dim)
    by_channel = ("batch", kv_heads, head_dim, "capacity")
    caches = Caches.declare(op, layers, activations.onnx, (by_slot, by_channel))
    ring = ring_step(op, config, input_ids, past, caches.past[layers[0]][0])
    write, heads = writing(op, ring), Heads(op, config, ring, activations)
    mix = mixing(op, config, ring, heads)

    def attend(layer: int, qkv: ir.Value) -> tuple[ir.Value, Pair]:
        q, k, v = heads.split(qkv)
        past_keys, past_values = caches.past[layer]
        keys = write(past_keys, k, 2)  # (batch, kv, capacity, head_dim)
        # (batch, kv, head_dim, capacity)
        values = write(past_values, op.Transpose(v, perm=[0, 1, 3, 2]), 3)
        return mix(q, keys, values), (keys, values)

    return Attention(caches, attend)
