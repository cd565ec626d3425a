"""Whether a graph that takes adapters is the usual one of the same layers, with nothing else added.

Without an adapter it has to compute what the usual graph does: its inputs for adapters are empty by
default, and it has the operators of the usual graph and those that take adapters, counted by kind.
What it has in common with the usual one, :mod:`sc2onnx.runtime.opening.agreement` compares.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from sc2onnx.bundle.adapters import LANES, MODULES, matrix_name
from sc2onnx.runtime.opening.contradictions import check_same
from sc2onnx.runtime.opening.expected import Part
from sc2onnx.runtime.opening.onnx_graph import BFLOAT16, FLOAT, FLOAT16, OnnxGraph

_ONE: Final = {FLOAT: b"\x00\x00\x80\x3f", FLOAT16: b"\x00\x3c", BFLOAT16: b"\x80\x3f"}
"""The number 1 by type, as a file has it."""


def check_adapter_graph(name: str, graph: OnnxGraph, part: Part, usual: OnnxGraph) -> None:
    """Raise :class:`~sc2onnx.errors.BundleIntegrityError` for one that computes something else.

    ``name``: of its file; ``usual``: the graph of the same layers that takes none.
    """
    for layer in part.layers:
        for module in (module for modules in MODULES.values() for module in modules):
            for which, axis in (("A", 1), ("B", 0)):
                matrix = matrix_name(layer, module, which)
                tensor = graph.tensors.get(matrix)
                ranks = tensor.shape[axis] if tensor is not None else "absent"
                check_same(name, f"the ranks of {matrix} by default", ranks, 0)
    lanes = graph.tensors.get(LANES)
    found = (lanes.shape, lanes.raw) if lanes is not None else None
    check_same(name, f"{LANES} by default", found, ((1, 1), _ONE[part.element]))
    counted = Counter(node.operator for node in graph.nodes)
    expected = Counter(node.operator for node in usual.nodes) + _added(len(part.layers))
    check_same(name, "the number of operators", _shown(counted), _shown(expected))


def _added(layers: int) -> Counter[str]:
    """Operators that take adapters."""
    modules = sum(map(len, MODULES.values()))
    joined = sum(len(each) > 1 for each in MODULES.values())
    one = {"MatMul": 2 * modules, "Mul": modules, "Slice": modules, "Shape": modules}
    one |= {"Add": len(MODULES), "Concat": joined}
    return Counter({operator: count * layers for operator, count in one.items()})


def _shown(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {operator}" for operator, count in sorted(counts.items()))
