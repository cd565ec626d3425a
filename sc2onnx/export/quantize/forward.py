"""What one layer computes, in numpy: calibration sees the activations that the weights will meet.

Equations: ``modeling_starcoder2.py`` of transformers, as in :mod:`sc2onnx.export.graph.layers`; no
cache, whole windows of text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import erf

from sc2onnx.export.config import ACTIVATIONS, Starcoder2Config
from sc2onnx.export.quantize.codec import Floats, by_tiles

_QUERIES: Final = 128
"""Positions whose attention is computed at once."""


@dataclass(frozen=True, slots=True)
class Affine:
    """``x W^T + b`` (a product) or the scale and shift of a norm. weight: (out, in) or
    (channels,); bias: (out,) or None.
    """

    weight: Floats
    bias: Floats | None

    def __call__(self, x: Floats) -> Floats:
        """(..., in) -> (..., out)."""
        y = x.reshape(-1, x.shape[-1]) @ self.weight.T  # one product, not one for each window
        if self.bias is not None:
            y += self.bias
        return np.asarray(y, dtype=np.float32).reshape(*x.shape[:-1], -1)

    def part(self, outputs: slice) -> Affine:
        """Some of its outputs."""
        return Affine(self.weight[outputs], None if self.bias is None else self.bias[outputs])

    @property
    def unbiased(self) -> Affine:
        """Without its bias."""
        return Affine(self.weight, None)


def layer_norm(x: Floats, norm: Affine, epsilon: float) -> Floats:
    """Over the last axis."""

    def normed(rows: Floats, out: Floats) -> None:
        np.subtract(rows, rows.mean(axis=-1, keepdims=True), out=out)
        variance = np.einsum("tc,tc->t", out, out)[:, None] / np.float32(rows.shape[-1])
        out /= np.sqrt(variance + np.float32(epsilon))
        out *= norm.weight
        if norm.bias is not None:
            out += norm.bias

    return _by_rows(normed, x)


def gelu(x: Floats, config: Starcoder2Config) -> Floats:
    """The activation of the multilayer perceptron."""
    exact = ACTIVATIONS[config.hidden_act] == "none"
    return _by_rows(_exact_gelu if exact else _tanh_gelu, x)


def _exact_gelu(x: Floats, out: Floats) -> None:
    np.multiply(x, np.float32(0.5) * (1 + erf(x * np.float32(0.5**0.5))), out=out)


def _tanh_gelu(x: Floats, out: Floats) -> None:
    np.multiply(x, x, out=out)
    out *= np.float32(0.044715 * (2 / np.pi) ** 0.5)
    out += np.float32((2 / np.pi) ** 0.5)
    out *= x
    np.tanh(out, out=out)
    out += 1
    out *= x
    out *= np.float32(0.5)


def _by_rows(function: Callable[[Floats, Floats], None], x: Floats) -> Floats:
    """``function(rows, out)`` of a few rows (tokens, channels) at a time."""
    rows, made = x.reshape(-1, x.shape[-1]), np.empty(x.shape, dtype=np.float32)
    out = made.reshape(rows.shape)

    # what is not finite is noticed at the next product; threads do not share what is ignored
    @np.errstate(over="ignore", invalid="ignore")
    def tile(first: int, stop: int) -> None:
        function(rows[first:stop], out[first:stop])

    by_tiles(tile, *rows.shape)
    return made


def rotary_tables(config: Starcoder2Config, length: int) -> tuple[Floats, Floats]:
    """Cosine and sine (length, head_dim / 2) of the first positions."""
    frequencies = config.rope_theta ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
    phases = np.arange(length)[:, None] * frequencies
    return np.cos(phases).astype(np.float32), np.sin(phases).astype(np.float32)


def attention(qkv: Floats, config: Starcoder2Config, tables: tuple[Floats, Floats]) -> Floats:
    """qkv (windows, length, (heads + 2 kv_heads) * head_dim) -> (windows, length, heads *
    head_dim); each window starts a text.
    """
    count, length, _ = qkv.shape
    heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    packed = qkv.reshape(count, length, heads + 2 * kv_heads, width).transpose(0, 2, 1, 3)
    mixed = np.empty((count, length, heads, width), dtype=np.float32)
    for window in range(count):  # a few queries at a time, of which the first see few keys
        turned = rotated(packed[window, : heads + kv_heads], *tables)
        keys, values = turned[heads:], packed[window, heads + kv_heads :]
        for first in range(0, length, _QUERIES):
            stop = min(first + _QUERIES, length)
            queries = turned[:heads, first:stop].reshape(kv_heads, -1, width)
            weights = probabilities(queries, keys[:, :stop], config)
            part = (weights @ values[:, :stop]).reshape(heads, stop - first, width)
            mixed[window, first:stop] = part.transpose(1, 0, 2)
    return mixed.reshape(count, length, heads * width)


def probabilities(queries: Floats, keys: Floats, config: Starcoder2Config) -> Floats:
    """Of keys (kv_heads, length, head_dim), the first ones, for queries at the last of these
    positions, (kv_heads, group * count, head_dim): (kv_heads, group * count, length).
    """
    scores = np.asarray(queries @ keys.transpose(0, 2, 1), dtype=np.float32)
    count = queries.shape[1] // config.group_size
    hidden = ~_visible(keys.shape[1], config.sliding_window)[-count:]
    _softmax(scores.reshape(-1, scores.shape[-1]), hidden, queries.shape[-1] ** -0.5)
    return scores


def _softmax(scores: Floats, hidden: npt.NDArray[np.bool_], scale: float) -> None:
    """In place: scores (heads * length, length), hidden (length, length)."""

    @np.errstate(over="ignore", invalid="ignore")
    def tile(first: int, stop: int) -> None:
        rows = scores[first:stop]
        rows *= np.float32(scale)
        np.copyto(rows, -np.inf, where=hidden[np.arange(first, stop) % len(hidden)])
        rows -= rows.max(axis=-1, keepdims=True)
        np.exp(rows, out=rows)
        rows /= rows.sum(axis=-1, keepdims=True)

    by_tiles(tile, *scores.shape)


def rotated(x: Floats, cos: Floats, sin: Floats) -> Floats:
    """Queries or keys (..., length, head_dim) at their positions."""
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _visible(length: int, window: int | None) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    distance = np.arange(length)[:, None] - np.arange(length)
    visible = distance >= 0
    return visible if window is None else visible & (distance < window)
