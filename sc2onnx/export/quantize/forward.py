"""What one layer computes, in numpy: calibration sees the activations that the weights will meet.

Equations: ``modeling_starcoder2.py`` of transformers, as in :mod:`sc2onnx.export.graph.layers`; no
cache, whole windows of text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import erf

from sc2onnx.export.config import ACTIVATIONS, Starcoder2Config
from sc2onnx.export.quantize.codec import Floats


@dataclass(frozen=True, slots=True)
class Affine:
    """``x W^T + b`` (a product) or the scale and shift of a norm. weight: (out, in) or
    (channels,); bias: (out,) or None.
    """

    weight: Floats
    bias: Floats | None

    def __call__(self, x: Floats) -> Floats:
        """(..., in) -> (..., out)."""
        y = x @ self.weight.T
        if self.bias is not None:
            y += self.bias
        return np.asarray(y, dtype=np.float32)


def layer_norm(x: Floats, norm: Affine, epsilon: float) -> Floats:
    """Over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.einsum("...c,...c->...", centred, centred)[..., None] / np.float32(x.shape[-1])
    centred /= np.sqrt(variance + np.float32(epsilon))
    centred *= norm.weight
    if norm.bias is not None:
        centred += norm.bias
    return np.asarray(centred, dtype=np.float32)


def gelu(x: Floats, config: Starcoder2Config) -> Floats:
    """The activation of the multilayer perceptron."""
    if ACTIVATIONS[config.hidden_act] == "none":
        return np.asarray(
            x * np.float32(0.5) * (1 + erf(x * np.float32(0.5**0.5))), dtype=np.float32
        )
    inner = x * x
    inner *= np.float32(0.044715)
    inner += 1
    inner *= x
    inner *= np.float32((2 / np.pi) ** 0.5)
    np.tanh(inner, out=inner)
    inner += 1
    inner *= x
    inner *= np.float32(0.5)
    return inner


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
    turned = _rotary(packed[:, : heads + kv_heads], *tables)
    hidden = ~_visible(length, config.sliding_window)
    mixed = np.empty((count, length, heads, width), dtype=np.float32)
    for window in range(count):  # one at a time: scores take heads * length * length
        keys, values = turned[window, heads:], packed[window, heads + kv_heads :]
        queries = turned[window, :heads].reshape(
            kv_heads, config.group_size * length, width
        ) * np.float32(width**-0.5)
        scores = (queries @ keys.transpose(0, 2, 1)).reshape(
            kv_heads, config.group_size, length, length
        )
        scores[..., hidden] = -np.inf
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed[window] = (
            (scores.reshape(kv_heads, -1, length) @ values)
            .reshape(heads, length, width)
            .transpose(1, 0, 2)
        )
    return mixed.reshape(count, length, heads * width)


def _rotary(x: Floats, cos: Floats, sin: Floats) -> Floats:
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _visible(length: int, window: int | None) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    distance = np.arange(length)[:, None] - np.arange(length)
    visible = distance >= 0
    return visible if window is None else visible & (distance < window)
