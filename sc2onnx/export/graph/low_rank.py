"""Products that take adapters: ``y + (x A * lanes) B``, with ``A`` and ``B`` as inputs of the graph
that are empty by default.

Several adapters stand side by side along the rank. A lane of 0 hides one from a token: what it
adds there is an exact 0, so that a token's result does not depend on what others use, as far as
ONNX Runtime sums in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from sc2onnx.bundle.adapters import LANES, MODULES, matrix_name
from sc2onnx.export.graph.activations import Activations
from sc2onnx.export.graph.layers import Products, around
from sc2onnx.export.graph.ops import Recorder

Shapes = Mapping[str, tuple[int, int]]
"""Inputs and outputs by module of a layer."""


def low_rank(products: Products, shapes: Shapes, activations: Activations) -> Products:
    """The same products, of which those of the layers take adapters."""
    added = _Added(shapes, activations)

    def linear(op: Recorder, x: ir.Value, name: str) -> ir.Value:
        return op.Add(products.product(op, x, name), added(op, x, name))

    return replace(products, product=around(linear))


@dataclass(frozen=True, slots=True)
class _Added:
    """What adapters add to a product."""

    shapes: Shapes
    activations: Activations

    def __call__(self, op: Recorder, x: ir.Value, name: str) -> ir.Value:
        """(tokens, in) -> (tokens, out) of the product ``model.layers.N.self_attn.o_proj``."""
        _, _, layer, product = name.split(".", maxsplit=3)
        parts = [self._module(op, x, int(layer), module) for module in MODULES[product]]
        return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=1)

    def _module(self, op: Recorder, x: ir.Value, layer: int, module: str) -> ir.Value:
        """(tokens, in) -> (tokens, out) of one module."""
        inputs, outputs = self.shapes[module]
        ranks = f"ranks of {layer}.{module}"
        a = self._optional(op, matrix_name(layer, module, "A"), (inputs, ranks))
        b = self._optional(op, matrix_name(layer, module, "B"), (ranks, outputs))
        rank = op.Shape(a, start=1, end=2)
        lanes = op.Slice(self._lanes(op), op.ints(0), rank, op.ints(1))  # (tokens or 1, ranks or 1)
        return op.MatMul(op.Mul(op.MatMul(x, a), lanes), b)

    def _optional(self, op: Recorder, name: str, shape: tuple[int | str, ...]) -> ir.Value:
        """An input that has no ranks unless it is fed."""
        value = op.input(name, self.activations.onnx, shape)
        empty = [0 if isinstance(size, str) else size for size in shape]
        op.default(value, np.zeros(empty, self.activations.numpy))
        return value

    def _lanes(self, op: Recorder) -> ir.Value:
        for value in op.graph.inputs:
            if value.name == LANES:
                return value
        lanes = op.input(LANES, self.activations.onnx, ("adapted tokens", "lanes"))
        op.default(lanes, np.ones((1, 1), self.activations.numpy))
        return lanes
