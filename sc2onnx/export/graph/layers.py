"""Norm, linear, multilayer perceptron and rotary embedding, on tokens flattened to
(batch * step, channels).

Source: ``modeling_starcoder2.py`` of transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.graph.ops import Recorder
from sc2onnx.export.weights import COS_CACHE, EMBEDDING, HEAD, SIN_CACHE


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer norm: ``(x - mean) / sqrt(variance + epsilon) * weight + bias`` over the channels."""

    name: str
    epsilon: float

    def __call__(self, op: Recorder, x: ir.Value) -> ir.Value:
        """(tokens, channels) -> the same shape."""
        return op.LayerNormalization(x, *self.weights(op), axis=-1, epsilon=float(self.epsilon))

    def weights(self, op: Recorder) -> tuple[ir.Value, ir.Value]:
        """Weight and bias, (channels,) each."""
        return op.weight(f"{self.name}.weight"), op.weight(f"{self.name}.bias")


class Product(Protocol):
    """A product with a named weight matrix, and what stands around it."""

    def __call__(
        self,
        op: Recorder,
        x: ir.Value,
        name: str,
        *,
        norm: Norm | None = None,
        gelu: str | None = None,
        residual: ir.Value | None = None,
    ) -> ir.Value:
        """``[residual +] [gelu](linear([norm](x)))``: (tokens, in) -> (tokens, out).

        ``gelu``: the approximation, as ONNX calls it; ``residual``: (tokens, out).
        """
        ...


Linear = Callable[[Recorder, ir.Value, str], ir.Value]
"""(recorder, x (tokens, in), name) -> ``x W^T + b`` (tokens, out), ``b`` where there is one."""

Embed = Callable[[Recorder, ir.Value], ir.Value]
"""(recorder, ids (tokens,)) -> their rows of the embedding (tokens, hidden)."""

Head = Callable[[Recorder, ir.Value, Norm], ir.Value]
"""(recorder, hidden states (tokens, hidden), the final norm) -> logits (tokens, vocab)."""


@dataclass(frozen=True, slots=True)
class Products:
    """Every use of a large matrix: ``product`` in the layers, ``embed``ding and output ``head``."""

    product: Product
    embed: Embed
    head: Head


def around(linear: Linear) -> Product:
    """A product whose norm, activation and sum are operators of their own."""

    def product(
        op: Recorder,
        x: ir.Value,
        name: str,
        *,
        norm: Norm | None = None,
        gelu: str | None = None,
        residual: ir.Value | None = None,
    ) -> ir.Value:
        y = linear(op, x if norm is None else norm(op, x), name)
        y = y if gelu is None else op.Gelu(y, approximate=gelu)
        return y if residual is None else op.Add(residual, y)

    return product


def float_products(config: Starcoder2Config) -> Products:
    """Matrices in the type of the activations. Where the head is tied, it is the embedding."""
    head = EMBEDDING if config.tie_word_embeddings else HEAD
    return Products(
        around(linear),
        embed=lambda op, ids: op.Gather(op.weight(EMBEDDING), ids, axis=0),
        head=lambda op, x, norm: op.Gemm(norm(op, x), op.weight(head), transB=1),
    )


def bias(op: Recorder, name: str) -> ir.Value | None:
    """The bias (out,) of a product, None where it has none."""
    return op.weight(f"{name}.bias") if op.has_weight(f"{name}.bias") else None


def linear(op: Recorder, x: ir.Value, name: str) -> ir.Value:
    """``x W^T + b`` with ``W`` (out, in) as the checkpoint stores it."""
    added = bias(op, name)
    return op.Gemm(x, op.weight(f"{name}.weight"), added, transB=1)


def rotary_rows(op: Recorder, positions: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Cosine and sine for these positions (batch, step), gathered once for all layers:
    (batch, step, head_dim / 2).
    """
    return op.Gather(op.weight(COS_CACHE), positions, axis=0), op.Gather(
        op.weight(SIN_CACHE), positions, axis=0
    )


def rotary(op: Recorder, heads: ir.Value, cos: ir.Value, sin: ir.Value) -> ir.Value:
    """Turn the two halves of each head: ``(a, b) -> (a cos - b sin, b cos + a sin)``. heads:
    (batch, heads, step, head_dim).
    """
    return op.RotaryEmbedding(heads, cos, sin)
