"""Keys and values of a graph's layers: inputs as the last step left them, outputs for the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from sc2onnx.bundle.contract import past_name, present_name
from sc2onnx.export.graph.ops import Recorder

Shape = tuple[int | str, ...]

Pair = tuple[ir.Value, ir.Value]
"""Keys and values of one layer."""


@dataclass(frozen=True, slots=True)
class Caches:
    """The caches of some layers. ``result``: shapes in which keys and values come back."""

    past: Mapping[int, Pair]
    element: ir.DataType
    result: tuple[Shape, Shape]

    @classmethod
    def declare(
        cls,
        op: Recorder,
        layers: range,
        element: ir.DataType,
        given: tuple[Shape, Shape],
        result: tuple[Shape, Shape] | None = None,
    ) -> Caches:
        """Make graph inputs of them, of the shapes ``given``: by default the result's."""
        past = {layer: _inputs(op, layer, element, given) for layer in layers}
        return cls(past, element, given if result is None else result)

    def hand_back(self, op: Recorder, present: Mapping[int, Pair]) -> None:
        """Make graph outputs of what layers made of them."""
        for layer, pair in present.items():
            for kind, value, shape in zip(("key", "value"), pair, self.result, strict=True):
                op.output(value, present_name(layer, kind), self.element, shape)


def _inputs(op: Recorder, layer: int, element: ir.DataType, shapes: tuple[Shape, Shape]) -> Pair:
    keys, values = shapes
    return (
        op.input(past_name(layer, "key"), element, keys),
        op.input(past_name(layer, "value"), element, values),
    )
