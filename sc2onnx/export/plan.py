"""What exporting a variant of a checkpoint makes of its weights, decided from names and shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Final, Self

import numpy as np

from sc2onnx.bundle.contract import LINEAR
from sc2onnx.bundle.quantization import Quantization
from sc2onnx.bundle.schemes import Scheme
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.graph.grouped_query import check_head_size
from sc2onnx.export.graph.layers import Products, float_products
from sc2onnx.export.graph.quantized import (
    Schemes,
    cuda_products,
    nbits_products,
    standard_products,
)
from sc2onnx.export.precision import Variant
from sc2onnx.export.quantize.roundings import Roundings
from sc2onnx.export.quantize.sensitivity import lift_room
from sc2onnx.export.quantize.weights import LAYERS, Layout, quantised_weights, schemes
from sc2onnx.export.weights import LazyWeight, some_tensors

Weights = Mapping[str, LazyWeight]

_PRODUCTS: Final[Mapping[str, Callable[[Schemes], Products]]] = {
    "nbits": nbits_products,
    "nbits-apart": cuda_products,
    "standard": standard_products,
}
"""``products`` of a target -> what computes them."""

STORED_SCALE: Final = np.dtype(np.float32).itemsize
"""Bytes of a scale as calibration keeps it, whatever it is in the bundle."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A variant of a checkpoint, before any weight is read.

    ``floats``: the weights of the graph, not rounded yet. ``schemes``: of the products that become
    integers, none for floats; calibration may lift some of them to more bits.
    """

    config: Starcoder2Config
    variant: Variant
    floats: Weights
    schemes: Schemes

    @classmethod
    def of(cls, config: Starcoder2Config, floats: Weights, variant: Variant) -> Self:
        """With the schemes as the recipe has them.

        Raises :class:`~sc2onnx.errors.RequestError` for a shape that the variant does not take.
        """
        if variant.cache.kind == LINEAR:
            check_head_size(config)
        recipe = variant.recipe()
        chosen = {} if recipe is None else schemes(config, floats, recipe)
        return cls(config, variant, floats, chosen)

    @property
    def body(self) -> dict[str, Scheme]:
        """The layers' products among those that become integers: what calibration is about."""
        return {name: scheme for name, scheme in self.schemes.items() if name.startswith(LAYERS)}

    @property
    def body_parameters(self) -> int:
        """Weights of the body."""
        return sum(map(prod, self._shapes.values()))

    def body_bytes(self, scale: int = STORED_SCALE) -> int:
        """Bytes of the body's codes, and of its scales of ``scale`` bytes each."""
        total = 0
        for name, (rows, columns) in self._shapes.items():
            total += self.schemes[name].nbytes(rows, columns, scale)
        return total

    @property
    def outputs(self) -> list[int]:
        """Outputs of every product of the layers."""
        return [rows for rows, _ in self._shapes.values()]

    def lift_room(self) -> int:
        """Bytes by which lifting may enlarge the body, at most."""
        recipe = self.variant.recipe()
        if recipe is None or recipe.lift is None:
            return 0
        return max(0, int(lift_room(recipe, self.schemes, self._shapes)))

    @property
    def products(self) -> Products:
        """What computes the products in the graph."""
        if self.variant.recipe() is None:
            return float_products(self.config)
        return _PRODUCTS[self.variant.made_for.products](self.schemes)

    def weights(self, roundings: Roundings | None = None) -> WeightPlan:
        """The weights to write, integers from ``roundings``, by default the nearest.

        Floats are written as they are.
        """
        variant, recipe = self.variant, self.variant.recipe()
        if recipe is None:
            return WeightPlan(self, self.floats, None)
        roundings = roundings or Roundings(self.schemes)
        layout: Layout = "columns" if variant.made_for.transposed else "rows"
        floats = {name: roundings.bias(weight) for name, weight in self.floats.items()}
        types = variant.dtype, variant.scales
        made = quantised_weights(floats, self.schemes, layout, roundings, *types)
        bits = 8 * self.body_bytes(variant.scales.itemsize) / self.body_parameters
        scales = None if variant.scales == variant.dtype else variant.scales.name
        how = "nearest" if roundings.store is None else "calibrated"
        described = recipe.name, dict(self.schemes), round(bits, 4), how, roundings.text, scales
        return WeightPlan(self, made, Quantization(*described), roundings.zeros)

    @property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: self.floats[f"{name}.weight"].shape for name in self.body}


@dataclass(frozen=True, slots=True)
class WeightPlan:
    """The weights of a bundle by name, and what the manifest says of them.

    ``zeros``: blocks of zeros by tensor of the checkpoint, counted while the weights are written.
    """

    plan: Plan
    weights: Weights
    quantization: Quantization | None
    zeros: Mapping[str, int] = field(default_factory=dict)

    def doubts(self) -> str | None:
        """What looks wrong about the weights, now that they are written; None if nothing does."""
        if not any(self.zeros.values()):
            return None
        named = some_tensors([name for name, count in self.zeros.items() if count])
        return (
            f"blocks of zeros in {named}, {sum(self.zeros.values())} in all: they stay zeros; "
            "check the checkpoint, unless it was pruned or has tokens that are never used"
        )
