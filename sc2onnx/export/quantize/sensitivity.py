"""Which products lose most by rounding: each is rounded alone, and the divergence of
the whole model measured.

All variants of the model move forward together, one layer at a time: those rounded further down,
and four new ones that this layer's products branch off. A weight is read once.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, prod
from typing import Final

import numpy as np

from sc2onnx.bundle.schemes import Scheme
from sc2onnx.errors import TensorError
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.progress import Progress
from sc2onnx.export.quantize.calibrate import Weights, Windows, affine, embed, whole
from sc2onnx.export.quantize.codec import Floats, dequantise, quantise
from sc2onnx.export.quantize.forward import Affine, attention, gelu, layer_norm, rotary_tables
from sc2onnx.export.quantize.recipe import Recipe
from sc2onnx.export.weights import EMBEDDING, HEAD, some_tensors

TOKENS: Final = 512
"""Of text that it is measured on: there are four times as many variants as layers,
and only their order counts.
"""

SCALE_BYTES: Final = 2
"""Bytes of a scale that ``body_bits`` of a recipe counts."""

_PRODUCTS: Final = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.c_fc", "mlp.c_proj")


@np.errstate(over="ignore", invalid="ignore")  # what is not finite is noticed at the end, and named
def measure(
    config: Starcoder2Config,
    weights: Weights,
    schemes: Mapping[str, Scheme],
    windows: Windows,
    report: Progress,
) -> dict[str, float]:
    """Product -> KL divergence (nats per position, original to variant) of the model in which it
    alone is rounded, to the nearest.

    windows: (count, length) token ids. Raises
    :class:`~sc2onnx.errors.TensorError` where it is not finite.
    """
    base, _ = embed(weights[EMBEDDING], windows, schemes[EMBEDDING.removesuffix(".weight")])
    streams, names = [base], list[str]()
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        parts = {
            part: affine(weights, f"{prefix}.{part}")
            for part in (*_PRODUCTS, "input_layernorm", "post_attention_layernorm")
        }
        branches = []
        for part in _PRODUCTS:
            product = parts[part]
            rounded = Affine(
                dequantise(quantise(product.weight, schemes[f"{prefix}.{part}"])), product.bias
            )
            branches.append(_layer(streams[0], {**parts, part: rounded}, config))
            report.advance(product.weight.nbytes)
        streams = [_layer(stream, parts, config) for stream in streams] + branches
        names += [f"{prefix}.{part}" for part in _PRODUCTS]
    norm = affine(weights, "model.norm")
    head = whole(weights[EMBEDDING if config.tie_word_embeddings else HEAD])
    reference = _log_probabilities(streams[0], norm, head, config)
    measured = {
        name: _divergence(reference, _log_probabilities(stream, norm, head, config))
        for name, stream in zip(names, streams[1:], strict=True)
    }
    if odd := [name for name, value in measured.items() if not isfinite(value)]:
        raise TensorError(
            f"the sensitivity of {some_tensors(odd)} is not finite: check the checkpoint, "
            "or pass --no-calibration"
        )
    return measured


def lifted(
    recipe: Recipe,
    schemes: Mapping[str, Scheme],
    weights: Weights,
    sensitivities: Mapping[str, float],
) -> dict[str, Scheme]:
    """The schemes with the most sensitive products per byte in ``recipe.lift``, as far as
    ``recipe.body_bits`` goes.
    """
    assert recipe.lift is not None
    shapes = {name: weights[f"{name}.weight"].shape for name in sensitivities}
    chosen = dict(schemes)
    room = lift_room(recipe, schemes, shapes)
    costs = {
        name: recipe.lift.nbytes(rows, columns, SCALE_BYTES)
        - schemes[name].nbytes(rows, columns, SCALE_BYTES)
        for name, (rows, columns) in shapes.items()
    }
    for name in sorted(sensitivities, key=lambda name: -sensitivities[name] / max(costs[name], 1)):
        if 0 < costs[name] <= room and not recipe.overridden(name):
            chosen[name] = recipe.lift
            room -= costs[name]
    return chosen


def lift_room(
    recipe: Recipe,
    schemes: Mapping[str, Scheme],
    shapes: Mapping[str, tuple[int, ...]],
    scale: int = SCALE_BYTES,
) -> float:
    """Bytes that lifting may add to products of these shapes, with scales of ``scale`` bytes each.

    It is negative where they are above ``recipe.body_bits`` as it is.
    """
    room = recipe.body_bits * sum(map(prod, shapes.values())) / 8
    for name, (rows, columns) in shapes.items():
        room -= schemes[name].nbytes(rows, columns, scale)
    return room


def _layer(x: Floats, parts: Mapping[str, Affine], config: Starcoder2Config) -> Floats:
    """One layer on (windows, length, hidden)."""
    tables = rotary_tables(config, x.shape[1])
    normed = layer_norm(x, parts["input_layernorm"], config.norm_epsilon)
    x = x + parts["self_attn.o_proj"](
        attention(parts["self_attn.qkv_proj"](normed), config, tables)
    )
    normed = layer_norm(x, parts["post_attention_layernorm"], config.norm_epsilon)
    return x + parts["mlp.c_proj"](gelu(parts["mlp.c_fc"](normed), config))


def _log_probabilities(x: Floats, norm: Affine, head: Floats, config: Starcoder2Config) -> Floats:
    """(tokens, vocab)."""
    logits = layer_norm(x.reshape(-1, x.shape[-1]), norm, config.norm_epsilon) @ head.T
    logits -= logits.max(axis=-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return np.asarray(logits, dtype=np.float32)


def _divergence(reference: Floats, ours: Floats) -> float:
    return float((np.exp(reference) * (reference - ours)).sum(axis=-1).mean())
