"""A half-precision graph made computable on the CPU, with every rounding that
half-precision kernels make.

ONNX Runtime's CPU provider has no bfloat16 kernels. It does run float16, by casting to float32 and
back around each node, but then drops the casts between nodes that follow each other, and their
roundings with them: its results are better than a GPU's. Here each node that computes gets its
half-precision inputs cast to float32, computes in float32, and has its results rounded, node for
node, as a kernel that accumulates in float32 does. Nodes that only move data stay as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx_ir as ir

_MOVES: Final = frozenset(
    {
        "Concat",
        "Gather",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "TensorScatter",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators of our graphs that compute nothing; the CPU provider has them for every type."""

_HALVES: Final = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def emulated(graph: Path) -> bytes:
    """The graph in this file, serialised, as above. It refers to its bundle's own weights."""
    model = ir.load(graph)
    widen(model.graph)
    return bytes(ir.to_proto(model).SerializeToString())


def widen(graph: ir.Graph) -> None:
    """Put casts around every node that computes in half precision."""
    halves: dict[ir.Value, ir.DataType] = {}
    for value in (*graph.inputs, *graph.initializers.values()):
        if value.dtype in _HALVES:
            halves[value] = value.dtype
    widened: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        found = [value for value in node.inputs if value in halves]
        if node.op_type == "Cast":
            to = ir.DataType(node.attributes["to"].as_int())
            halves.update({value: to for value in node.outputs if to in _HALVES})
        elif node.op_type in _MOVES and found:
            halves.update(dict.fromkeys(node.outputs, halves[found[0]]))
        elif node.op_type != "Shape" and found:
            _widen(graph, node, halves, widened)


def _widen(
    graph: ir.Graph,
    node: ir.Node,
    halves: dict[ir.Value, ir.DataType],
    widened: dict[ir.Value, ir.Value],
) -> None:
    """Cast the half-precision inputs of one node, each value once in the graph, and round
    its outputs to their type.
    """
    dtype = next(halves[value] for value in node.inputs if value in halves)
    for index, value in enumerate(node.inputs):
        if value not in halves:
            continue
        if value not in widened:
            cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT})
            graph.insert_before(node, cast)
            widened[value] = cast.outputs[0]
        node.replace_input_with(index, widened[value])
    for output in node.outputs:
        cast = ir.node("Cast", [output], {"to": dtype})
        users = [(user, index) for user, index in output.uses() if user is not cast]
        for user, index in users:
            user.replace_input_with(index, cast.outputs[0])
        graph.insert_after(node, cast)
        if output.is_graph_output():
            _take_over(graph, output, cast.outputs[0])
        if output.type is not None:
            output.type = ir.TensorType(ir.DataType.FLOAT)
        halves[cast.outputs[0]] = dtype


def _take_over(graph: ir.Graph, output: ir.Value, rounded: ir.Value) -> None:
    """Make the rounded value the output that the contract names, of the type that it names."""
    rounded.name, rounded.type, rounded.shape = output.name, output.type, output.shape
    output.name = f"{output.name}.wide"
    graph.outputs[list(graph.outputs).index(output)] = rounded
