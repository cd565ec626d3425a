"""Norm, linear, multilayer perceptron and rotary embedding, on tokens flattened to (batch * step, channels).

Source: ``modeling_starcoder2.py`` of transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from sc2onnx.export.config import ACTIVATIONS, Starcoder2Config
from sc2onnx.export.graph.ops import Recorder
from sc2onnx.export.weights import COS_CACHE, EMBEDDING, HEAD, SIN_CACHE


class Linear(Protocol):
    """A product with a named weight matrix, and its bias where there is one; quantised or not is the caller's choice."""

    def __call__(self, op: Recorder, x: ir.Value, name: str) -> ir.Value:
        """(tokens, in) -> (tokens, out)."""
        ...


Lookup = Callable[[Recorder, ir.Value], ir.Value]
"""(recorder, tokens) -> a row for each: the embedding, from ids (tokens,); the head, from activations (tokens, hidden)."""


@dataclass(frozen=True, slots=True)
class Products:
    """Every use of a large matrix: the ``linear`` products of the layers, the ``embed``ding and the output ``head``."""

    linear: Linear
    embed: Lookup
    head: Lookup


def float_products(config: Starcoder2Config) -> Products:
    """Matrices in the type of the activations. Where the head is tied, it is the embedding."""
    head = EMBEDDING if config.tie_word_embeddings else HEAD
    return Products(
        linear,
        embed=lambda op, ids: op.Gather(op.weight(EMBEDDING), ids, axis=0),
        head=lambda op, x: op.Gemm(x, op.weight(head), transB=1),
    )


def linear(op: Recorder, x: ir.Value, name: str) -> ir.Value:
    """``x W^T + b`` with ``W`` (out, in) as the checkpoint stores it."""
    bias = op.weight(f"{name}.bias") if op.has_weight(f"{name}.bias") else None
    return op.Gemm(x, op.weight(f"{name}.weight"), bias, transB=1)


def layer_norm(op: Recorder, x: ir.Value, name: str, epsilon: float) -> ir.Value:
    """``(x - mean) / sqrt(variance + epsilon) * weight + bias`` over the channels."""
    return op.LayerNormalization(x, op.weight(f"{name}.weight"), op.weight(f"{name}.bias"), axis=-1, epsilon=float(epsilon))


def mlp(op: Recorder, x: ir.Value, name: str, config: Starcoder2Config, product: Linear) -> ir.Value:
    """``c_proj(gelu(c_fc(x)))``."""
    inner = op.Gelu(product(op, x, f"{name}.c_fc"), approximate=ACTIVATIONS[config.hidden_act])
    return product(op, inner, f"{name}.c_proj")


def rotary_rows(op: Recorder, positions: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Cosine and sine for these positions (batch, step), gathered once for all layers: (batch, step, head_dim / 2)."""
    return op.Gather(op.weight(COS_CACHE), positions, axis=0), op.Gather(op.weight(SIN_CACHE), positions, axis=0)


def rotary(op: Recorder, heads: ir.Value, cos: ir.Value, sin: ir.Value) -> ir.Value:
    """Turn the two halves of each head: ``(a, b) -> (a cos - b sin, b cos + a sin)``. heads: (batch, heads, step, head_dim)."""
    return op.RotaryEmbedding(heads, cos, sin)
