"""Which products lose most by rounding, from one pass forward and one back.

Rounding changes a product's outputs by ``dy = dW x``. The divergence of the whole model is, to
second order, half the expected square of ``g . dy``, g the gradient of the log probability of a
token that the model itself draws. Tokens are drawn once for each position, and what the changes at
different positions have to do with each other is left out: only the order of the products counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite, prod
from typing import Final, Self

import numpy as np

from sc2onnx.bundle.schemes import Scheme
from sc2onnx.errors import TensorError
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.progress import Progress
from sc2onnx.export.quantize.backward import (
    attention_gradient,
    gelu_gradient,
    layer_norm_gradient,
)
from sc2onnx.export.quantize.calibrate import Weights, affine, part_of
from sc2onnx.export.quantize.codec import Floats, dequantise, quantise
from sc2onnx.export.quantize.forward import Affine, attention, gelu, layer_norm, rotary_tables
from sc2onnx.export.quantize.recipe import Recipe
from sc2onnx.export.quantize.streams import Windows, embed
from sc2onnx.export.quantize.weights import LAYERS
from sc2onnx.export.weights import EMBEDDING, HEAD, some_tensors

TOKENS: Final = 4096
"""Of text that gradients are computed on: the more, the better are the metrics of outputs
(docs/decisions/0008-calibration.md).
"""

_MEASURED: Final = slice(None, None, 4)
"""Windows of these on which products are rounded: their order shows on few."""

_FORWARD: Final = 5
"""The pass forward is about one part in so many of the time."""

Keep = Callable[[str, Floats], None]
"""What is done with the gradients of a product's outputs."""

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
    keep: Keep | None = None,
) -> dict[str, float]:
    """Product -> about the KL divergence (nats per position, original to variant) of the model in
    which it alone is rounded, to the nearest.

    windows: (count, length) token ids; ``keep`` is given the gradients (tokens, out) of every
    product's outputs. Raises
    :class:`~sc2onnx.errors.TensorError` where it is not finite.
    """
    base = embed(weights[EMBEDDING], windows, schemes[EMBEDDING.removesuffix(".weight")])
    inputs, x = list[Floats](), base.original
    for layer in range(config.num_hidden_layers):
        inputs.append(x)
        x = Layer.read(config, weights, layer).outputs(x)
        report.advance(_bytes(weights, layer) // _FORWARD)
    gradient = _drawn_gradient(config, weights, x)
    measured = list[dict[str, float]]()
    for layer in reversed(range(config.num_hidden_layers)):
        found, gradient = Layer.read(config, weights, layer).measure(
            inputs.pop(), gradient, schemes, keep
        )
        measured.insert(0, found)
        nbytes = _bytes(weights, layer)
        report.advance(nbytes - nbytes // _FORWARD)
    return _finite({name: value for found in measured for name, value in found.items()})


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer in floats. ``parts``: its products and norms, by their names within it."""

    config: Starcoder2Config
    name: str
    parts: Mapping[str, Affine]

    @classmethod
    def read(cls, config: Starcoder2Config, weights: Weights, layer: int) -> Self:
        """The weights of a layer."""
        name = f"{LAYERS}{layer}"
        norms = ("input_layernorm", "post_attention_layernorm")
        return cls(
            config, name, {part: affine(weights, f"{name}.{part}") for part in (*_PRODUCTS, *norms)}
        )

    def outputs(self, x: Floats) -> Floats:
        """(windows, length, hidden) -> the same."""
        _, _, mixed = self._attention(x)
        x = x + self.parts["self_attn.o_proj"](mixed)
        _, _, inner = self._mlp(x)
        return x + self.parts["mlp.c_proj"](inner)

    def measure(
        self, x: Floats, gradient: Floats, schemes: Mapping[str, Scheme], keep: Keep | None
    ) -> tuple[dict[str, float], Floats]:
        """Of each product its sensitivity, and the gradient of x, from that of the outputs."""
        parts, epsilon = self.parts, self.config.norm_epsilon
        tables = rotary_tables(self.config, x.shape[1])
        normed, qkv, mixed = self._attention(x)
        middle = x + parts["self_attn.o_proj"](mixed)
        below, up, inner = self._mlp(middle)
        gradients = {"mlp.c_proj": gradient}
        found = {"mlp.c_proj": self._lost("mlp.c_proj", inner, gradient, schemes)}
        through = gelu_gradient(up, self.config, gradient @ parts["mlp.c_proj"].weight)
        gradients["mlp.c_fc"] = through
        found["mlp.c_fc"] = self._lost("mlp.c_fc", below, through, schemes)
        gradient = gradient + layer_norm_gradient(
            middle, parts["post_attention_layernorm"], epsilon, through @ parts["mlp.c_fc"].weight
        )
        gradients["self_attn.o_proj"] = gradient
        found["self_attn.o_proj"] = self._lost("self_attn.o_proj", mixed, gradient, schemes)
        through = gradient @ parts["self_attn.o_proj"].weight
        # Of values, what many positions have in common adds up in those that see them: so it is
        # measured there.
        few = self._change("self_attn.qkv_proj", normed[_MEASURED], schemes)
        few = attention(qkv[_MEASURED] + few, self.config, tables) - mixed[_MEASURED]
        found["self_attn.qkv_proj"] = _lost(few, through[_MEASURED])
        through = attention_gradient(qkv, self.config, tables, through)
        gradients["self_attn.qkv_proj"] = through
        for part, of_outputs in gradients.items():
            if keep is not None:
                keep(f"{self.name}.{part}", of_outputs.reshape(-1, of_outputs.shape[-1]))
        gradient = gradient + layer_norm_gradient(
            x, parts["input_layernorm"], epsilon, through @ parts["self_attn.qkv_proj"].weight
        )
        return {f"{self.name}.{part}": found[part] for part in _PRODUCTS}, gradient

    def _attention(self, x: Floats) -> tuple[Floats, Floats, Floats]:
        """Normed, after qkv_proj, mixed."""
        normed = layer_norm(x, self.parts["input_layernorm"], self.config.norm_epsilon)
        qkv = self.parts["self_attn.qkv_proj"](normed)
        return normed, qkv, attention(qkv, self.config, rotary_tables(self.config, x.shape[1]))

    def _mlp(self, x: Floats) -> tuple[Floats, Floats, Floats]:
        """Normed, after c_fc, after the activation."""
        normed = layer_norm(x, self.parts["post_attention_layernorm"], self.config.norm_epsilon)
        up = self.parts["mlp.c_fc"](normed)
        return normed, up, gelu(up, self.config)

    def _lost(self, part: str, x: Floats, gradient: Floats, schemes: Mapping[str, Scheme]) -> float:
        """By rounding a product to the nearest, for inputs x and gradients of its outputs."""
        return _lost(self._change(part, x[_MEASURED], schemes), gradient[_MEASURED])

    def _change(self, part: str, x: Floats, schemes: Mapping[str, Scheme]) -> Floats:
        """What rounding to the nearest does to a product's outputs for the inputs x."""
        weight = self.parts[part].weight
        rounded = dequantise(quantise(weight, schemes[f"{self.name}.{part}"]))
        return np.asarray(x @ (rounded - weight).T, dtype=np.float32)


def _lost(change: Floats, gradient: Floats) -> float:
    """Half the mean square of a change along the gradient; both (windows, length, channels)."""
    along = np.einsum("...o,...o->...", change, gradient).astype(np.float64)
    return float(0.5 * (along * along).mean())


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
) -> float:
    """Bytes that lifting may add to products of these shapes, scales included.

    It is negative where they are above ``recipe.body_bits`` as it is.
    """
    room = recipe.body_bits * sum(map(prod, shapes.values())) / 8
    for name, (rows, columns) in shapes.items():
        room -= schemes[name].nbytes(rows, columns, SCALE_BYTES)
    return room


def _drawn_gradient(config: Starcoder2Config, weights: Weights, x: Floats) -> Floats:
    """Of the log probabilities of tokens that the model draws, one for each position: gradient of
    the residual stream x (windows, length, hidden) after the last layer.
    """
    norm = affine(weights, "model.norm")
    head = part_of(weights[EMBEDDING if config.tie_word_embeddings else HEAD])
    random, found = np.random.default_rng(0), np.empty_like(x)
    for window, rows in enumerate(x):
        logits = layer_norm(rows, norm, config.norm_epsilon) @ head.T
        logits -= logits.max(axis=-1, keepdims=True)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=-1, keepdims=True)
        for position in logits:  # from here on, what is drawn less what is expected
            sums = position.cumsum(dtype=np.float64)
            drawn = np.searchsorted(sums, random.random() * sums[-1], side="right")
            np.negative(position, out=position)
            position[min(int(drawn), len(position) - 1)] += 1
        found[window] = layer_norm_gradient(
            rows, norm, config.norm_epsilon, np.asarray(logits @ head, dtype=np.float32)
        )
    return found


def _bytes(weights: Weights, layer: int) -> int:
    return sum(weights[f"{LAYERS}{layer}.{part}.weight"].nbytes for part in _PRODUCTS)


def _finite(measured: dict[str, float]) -> dict[str, float]:
    if odd := [name for name, value in measured.items() if not isfinite(value)]:
        raise TensorError(
            f"the sensitivity of {some_tensors(odd)} is not finite: check the checkpoint, "
            "or pass --no-calibration"
        )
    return measured
