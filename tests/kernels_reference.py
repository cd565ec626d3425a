"""What the operators of sc2onnx-kernels mean, in numpy: slow, plain, independent.

:func:`evaluator` computes a bundle's graph for the kernels with it. In what order a tile of the
cache lies is a kernel's own business; here a slot is what its position has: float32, or int8 and a
scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

Array = npt.NDArray[Any]


def unpacked(codes: Array, scales: Array, bits: int) -> Array:
    """Weights (out, in), float64, from codes (out, blocks, bytes) and scales (out, blocks)."""
    if bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:2], -1)
    floats = (codes.astype(np.float64) - (1 << (bits - 1))) * scales[..., None]
    return np.asarray(floats.reshape(len(codes), -1))


def rounded(x: Array, block: int) -> Array:
    """Activations (tokens, in) that went through int8, with a scale for each row and block."""
    blocks = x.astype(np.float32).reshape(len(x), x.shape[1] // block, block)
    scales = np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(127)
    codes = np.rint(blocks / np.where(scales > 0, scales, 1))
    return np.asarray((codes.astype(np.float64) * scales).reshape(x.shape))


def layer_norm(x: Array, weight: Array, bias: Array, epsilon: float) -> Array:
    """Over the last axis, in float64."""
    centred = x.astype(np.float64) - x.mean(axis=-1, keepdims=True, dtype=np.float64)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return np.asarray(centred / np.sqrt(variance + epsilon) * weight + bias)


def gelu(x: Array) -> Array:
    """In the approximation by tanh."""
    return np.asarray(x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2)


def blockwise_linear(
    x: Array,
    codes: Array,
    scales: Array,
    bias: Array | None = None,
    norm: tuple[Array, Array, float] | None = None,
    residual: Array | None = None,
    adapters: Callable[[Array], Array] | None = None,
    *,
    bits: int,
    block: int,
    activate: bool = False,
    rounds: bool = True,
    fine: bool = False,
) -> Array:
    """``[gelu](rounded([norm](x)) W^T + bias + adapters([norm](x))) + residual``, float32
    (tokens, out).

    ``rounds``: whether activations go through int8, as they do in the kernels; ``fine``: twice.
    """
    normed = x if norm is None else layer_norm(x, *norm)
    taken = rounded(normed, block) if rounds else normed
    taken = taken + rounded(normed - taken, block) if rounds and fine else taken
    y = taken @ unpacked(codes, scales, bits).T
    y = y if bias is None else y + bias
    y = y if adapters is None else y + adapters(taken)
    y = gelu(y) if activate else y
    return np.asarray(y if residual is None else y + residual, dtype=np.float32)


def adapted(
    x: Array,
    outputs: int,
    product: int,
    of_token: Array,
    scales: Array,
    table: Array,
    weights: Array,
) -> Array:
    """What adapters add to a product: (tokens, in) -> float64 (tokens, out). The last four are
    the inputs of a graph (:mod:`sc2onnx.bundle.kernels`).
    """
    y = np.zeros((len(x), outputs))
    for token, adapter in enumerate(of_token):
        entries = table[adapter, product] if adapter >= 0 else np.zeros((0, 5), np.int64)
        for first, count, rank, a, b in entries[entries[:, 2] > 0]:
            tiles = weights[b : b + 2 * rank * count].view(np.float16).reshape(-1, rank, 16)
            up = tiles.astype(np.float64).transpose(0, 2, 1).reshape(count, rank)
            scale = scales[token] if len(scales) else 1
            inner = low_rank(weights[a:], rank, x.shape[1]) @ x[token]
            y[token, first : first + count] += scale * (up @ inner)
    return y


def low_rank(packed: Array, rank: int, inputs: int) -> Array:
    """``A`` (rank, inputs), float64, of the bytes that begin with it."""
    count = -(-rank // 16)
    tiles = packed[: count * 16 * (inputs + 4)].reshape(count, -1)
    codes, scales = tiles[:, : 16 * inputs], np.ascontiguousarray(tiles[:, 16 * inputs :])
    rows = codes.reshape(count, -1, 16, 4).transpose(0, 2, 1, 3).reshape(-1, inputs)
    return np.asarray((rows[:rank] - 128.0) * scales.view(np.float32).reshape(-1, 1)[:rank])


def turned(heads: Array, cos: Array, sin: Array) -> Array:
    """``a cos - b sin, b cos + a sin``: (step, heads, head_dim), by tables (step, head_dim / 2)."""
    a, b = np.split(heads.astype(np.float64), 2, axis=-1)
    cos, sin = cos[:, None], sin[:, None]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def stored(values: Array, slot_bytes: int) -> Array:
    """Keys or values (..., head_dim) as slots, uint8 (..., slot_bytes)."""
    floats = np.ascontiguousarray(values, dtype=np.float32)
    if slot_bytes == 4 * floats.shape[-1]:
        return floats.view(np.uint8)
    assert slot_bytes == floats.shape[-1] + 4
    scales = np.abs(floats).max(axis=-1, keepdims=True) / np.float32(127)
    codes = np.rint(floats / np.where(scales > 0, scales, 1)).astype(np.int8)
    bytes_of_scales = np.ascontiguousarray(scales).view(np.uint8)
    return np.concatenate([codes.view(np.uint8), bytes_of_scales], axis=-1)


def loaded(slots: Array, head_dim: int) -> Array:
    """Keys or values (..., head_dim), float64, of slots as :func:`stored` makes them."""
    if slots.shape[-1] == 4 * head_dim:
        return np.ascontiguousarray(slots).view(np.float32).astype(np.float64)
    codes, scales = (
        np.ascontiguousarray(slots[..., :head_dim]),
        np.ascontiguousarray(slots[..., head_dim:]),
    )
    return np.asarray(codes.view(np.int8).astype(np.float64) * scales.view(np.float32))


def ring_attention(
    qkv: Array,
    runs: Sequence[tuple[int, int, int]],
    tables: tuple[Array, Array],
    caches: tuple[Array, Array],
    *,
    heads: int,
    kv_heads: int,
    window: int,
) -> tuple[Array, Array, Array]:
    """Mixed values float32 (tokens, heads * head_dim), and the caches with the step in them.

    ``runs``: (tokens of the step, tokens before it, row of the caches); ``tables``: cosine and
    sine of every position; ``caches``: keys and values, uint8 (rows, kv_heads, capacity,
    slot_bytes). ``window`` 0: none.
    """
    capacity = caches[0].shape[2]
    head_dim = qkv.shape[1] // (heads + 2 * kv_heads)
    packed = qkv.reshape(-1, heads + 2 * kv_heads, head_dim)
    keys, values = (cache.copy() for cache in caches)
    mixed = np.empty((len(packed), heads, head_dim), dtype=np.float32)
    first = 0
    for step, past, row in runs:
        if not step:
            continue
        here = slice(first, first + step)
        first += step
        positions = np.arange(past, past + step)
        cos, sin = (table[positions] for table in tables)
        q, k, v = np.split(packed[here], [heads, heads + kv_heads], axis=1)
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        for cache, new in ((keys, k), (values, v)):
            cache[row][:, positions % capacity] = stored(new, cache.shape[-1]).transpose(1, 0, 2)
        last = past + step - 1
        held = last - (last - np.arange(capacity)) % capacity  # position in a slot, negative: none
        distance = positions[:, None] - held
        visible = (distance >= 0) & (held >= 0) & ((distance < window) if window else True)
        for head in range(heads):
            shared = head // (heads // kv_heads)
            with np.errstate(invalid="ignore", over="ignore"):  # of slots that hold noise
                rows, columns = (loaded(cache[row, shared], head_dim) for cache in (keys, values))
                scores = np.where(visible, q[:, head] @ rows.T / np.sqrt(head_dim), -np.inf)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            mixed[here, head] = weights @ np.where(visible.any(axis=0)[:, None], columns, 0)
    return mixed.reshape(len(packed), -1), keys, values


class BlockwiseLinear(OpRun):
    """The operator of a graph."""

    op_domain = "sc2onnx"
    rounds = True
    N: int
    K: int
    bits: int
    block_size: int
    epsilon: float
    product: int

    def _run(self, x: Array, *weights: Any, **_: Any) -> tuple[Array]:
        codes, scales, *others = weights
        given: list[Any] = [*others, *[None] * (8 - len(others))]
        bias, weight, shift, residual, *adapters = given
        norm = None if weight is None or shift is None else (weight, shift, float(self.epsilon))
        assert (len(codes), x.shape[1]) == (self.N, self.K)
        y = blockwise_linear(
            x,
            codes,
            scales,
            bias,
            norm,
            residual,
            None if adapters[0] is None else self._added(*adapters),
            bits=self.bits,
            block=self.block_size,
            activate=bool(getattr(self, "gelu", 0)),
            rounds=self.rounds,
            fine=getattr(self, "activation_bits", 8) == 16,
        )
        return (y,)

    def _added(self, of_token: Array, *others: Array) -> Callable[[Array], Array] | None:
        if not len(of_token):
            return None
        return lambda x: adapted(x, self.N, self.product, of_token, *others)


_Exact = type("BlockwiseLinear", (BlockwiseLinear,), {"rounds": False})
"""Goes by the same name, and leaves activations what they are."""


class RingAttention(OpRun):
    """The operator of a graph."""

    op_domain = "sc2onnx"
    num_heads: int
    num_kv_heads: int
    window: int

    def _run(self, qkv: Array, ids: Array, *others: Array, **_: Any) -> tuple[Array, ...]:
        past, cos, sin, keys, values, lengths, rows = others
        steps = lengths if len(lengths) else np.full(len(past), ids.shape[1])
        held = rows if len(rows) else np.arange(len(past))
        runs = [
            (int(count), int(before), int(row))
            for count, before, row in zip(steps, past, held, strict=True)
        ]
        heads = {"heads": self.num_heads, "kv_heads": self.num_kv_heads, "window": self.window}
        return ring_attention(qkv, runs, (cos, sin), (keys, values), **heads)


class GatherBlockQuantized(OpRun):
    """ONNX Runtime's operator, on packed codes (out, bytes of a row)."""

    op_domain = "com.microsoft"
    gather_axis: int
    quantize_axis: int
    bits: int

    def _run(self, codes: Array, ids: Array, scales: Array, **_: Any) -> tuple[Array]:
        assert (self.gather_axis, self.quantize_axis) == (0, 1)
        rows = codes[ids].reshape(len(ids), scales.shape[1], -1)
        return (unpacked(rows, scales[ids], self.bits).astype(np.float32),)


def evaluator(graph: Path, *, rounds: bool = True) -> ReferenceEvaluator:
    """Of a graph for the kernels. ``rounds``: whether activations go through int8."""
    linear = BlockwiseLinear if rounds else _Exact
    operators = [linear, RingAttention, GatherBlockQuantized]
    return ReferenceEvaluator(_with_weights(graph), new_ops=operators)


def _with_weights(graph: Path) -> onnx.ModelProto:
    """A model with its weights in it, which onnx takes from no file that has several names."""
    model = onnx.load(graph, load_external_data=False)
    for tensor in model.graph.initializer:
        where = {entry.key: entry.value for entry in tensor.external_data}
        if where:
            with (graph.parent / where["location"]).open("rb") as file:
                file.seek(int(where["offset"]))
                tensor.raw_data = file.read(int(where["length"]))
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.DEFAULT
    return model


NO_ADAPTERS: dict[str, tuple[tuple[int, ...], npt.DTypeLike]] = {
    "adapter_of_token": ((0,), np.int64),
    "adapter_scales": ((0,), np.float32),
    "adapter_table": ((0, 0, 0, 5), np.int64),
    "adapter_weights": ((0,), np.uint8),
}
"""Shapes and types of the inputs of adapters where there are none."""


class Stepper:
    """A model in one or more such graphs, and its cache: as the runtime drives them."""

    def __init__(
        self,
        graphs: Sequence[Path],
        slot_bytes: int,
        capacity: int,
        *,
        batch: int = 1,
        rounds: bool = True,
    ) -> None:
        """``capacity``: slots of the ring, noise at first. ``rounds``: see :func:`evaluator`."""
        self._stages = [evaluator(graph, rounds=rounds) for graph in graphs]
        self.past = np.zeros(batch, dtype=np.int64)
        self._caches: dict[str, Array] = {}
        noise = np.random.default_rng(0)
        for graph in graphs:
            for value in onnx.load(graph, load_external_data=False).graph.input:
                if value.name.startswith("past_key_values."):
                    kv_heads = value.type.tensor_type.shape.dim[1].dim_value
                    shape = (batch, kv_heads, capacity, slot_bytes)
                    self._caches[value.name] = noise.integers(0, 256, shape, dtype=np.uint8)

    def step(
        self, tokens: Array, num_logits: int, adapters: Mapping[str, Array] | None = None
    ) -> Array:
        """tokens (batch, step) -> logits (batch, num_logits, vocab). ``adapters``: the inputs of
        these, none by default.
        """
        found: dict[str, Array] = {}
        for stage in self._stages:
            feeds = {
                "input_ids": tokens,
                "past_lengths": self.past,
                "num_logits": np.array([num_logits]),
                "step_lengths": np.zeros(0, dtype=np.int64),
                "cache_rows": np.zeros(0, dtype=np.int64),
                **{name: np.zeros(shape, dtype) for name, (shape, dtype) in NO_ADAPTERS.items()},
                **(adapters or {}),
                **self._caches,
            }
            if "next_hidden_states" in found:
                feeds["hidden_states"] = found["next_hidden_states"]
            known = {name: feeds[name] for name in stage.input_names}
            outputs: Any = stage.run(None, known)
            found = dict(zip(stage.output_names, outputs, strict=True))
            for name in self._caches:
                present = name.replace("past_key_values", "present")
                self._caches[name] = found.get(present, self._caches[name])
        self.past = self.past + tokens.shape[1]
        return found["logits"]

    def all(self, tokens: Array, sizes: Sequence[int]) -> Array:
        """Logits (batch, n, vocab) of tokens (batch, n), in steps of these sizes."""
        assert sum(sizes) == tokens.shape[1]
        pieces = np.split(tokens, np.cumsum(sizes)[:-1], axis=1)
        return np.concatenate([self.step(piece, piece.shape[1]) for piece in pieces], axis=1)
