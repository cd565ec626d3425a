"""Gradients of what one layer computes (:mod:`sc2onnx.export.quantize.forward`), in numpy.

Each function takes the inputs of its equation again, and the gradient of its outputs, and returns
that of its inputs; weights have none.
"""

from __future__ import annotations

import numpy as np
from scipy.special import erf

from sc2onnx.export.config import ACTIVATIONS, Starcoder2Config
from sc2onnx.export.quantize.codec import Floats
from sc2onnx.export.quantize.forward import Affine, probabilities, rotated


def layer_norm_gradient(x: Floats, norm: Affine, epsilon: float, gradient: Floats) -> Floats:
    """Of x (..., channels)."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    deviation = np.sqrt(variance + np.float32(epsilon))
    centred /= deviation
    gradient = gradient * norm.weight
    along = (gradient * centred).mean(axis=-1, keepdims=True)
    gradient -= gradient.mean(axis=-1, keepdims=True)
    gradient -= centred * along
    return np.asarray(gradient / deviation, dtype=np.float32)


def gelu_gradient(x: Floats, config: Starcoder2Config, gradient: Floats) -> Floats:
    """Of x, any shape."""
    if ACTIVATIONS[config.hidden_act] == "none":
        density = np.exp(-0.5 * x * x) * np.float32((2 * np.pi) ** -0.5)
        slope = 0.5 * (1 + erf(x * np.float32(0.5**0.5))) + x * density
    else:
        factor = np.float32((2 / np.pi) ** 0.5)
        square = np.float32(0.044715) * x * x
        bent = np.tanh(factor * x * (1 + square))
        slope = 0.5 * (1 + bent) + 0.5 * x * (1 - bent * bent) * factor * (1 + 3 * square)
    return np.asarray(gradient * slope, dtype=np.float32)


def attention_gradient(
    qkv: Floats, config: Starcoder2Config, tables: tuple[Floats, Floats], gradient: Floats
) -> Floats:
    """Of qkv (windows, length, (heads + 2 kv_heads) * head_dim), from that of the outputs
    (windows, length, heads * head_dim).
    """
    count, length, _ = qkv.shape
    heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    packed = qkv.reshape(count, length, heads + 2 * kv_heads, width).transpose(0, 2, 1, 3)
    grouped = kv_heads, config.group_size * length, width
    found = np.empty_like(packed)
    for window in range(count):
        turned = rotated(packed[window, : heads + kv_heads], *tables)
        queries, keys = turned[:heads].reshape(grouped), turned[heads:]
        values = packed[window, heads + kv_heads :]
        weights = probabilities(queries, keys, config)
        mixed = gradient[window].reshape(length, heads, width).transpose(1, 0, 2).reshape(grouped)
        scores = mixed @ values.transpose(0, 2, 1)
        scores -= np.einsum("kql,kql->kq", scores, weights)[..., None]
        scores *= weights
        scores *= np.float32(width**-0.5)
        turned[:heads] = (scores @ keys).reshape(heads, length, width)
        turned[heads:] = scores.transpose(0, 2, 1) @ queries
        # a rotation is undone by the opposite one
        found[window, : heads + kv_heads] = rotated(turned, tables[0], -tables[1])
        found[window, heads + kv_heads :] = weights.transpose(0, 2, 1) @ mixed
    return np.ascontiguousarray(found.transpose(0, 2, 1, 3)).reshape(qkv.shape)
