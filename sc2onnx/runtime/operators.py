"""The operators that a bundle's graph may have: those that the exporter writes, by target.

ONNX has operators that loop without an end, make tensors of any size or call functions of the file,
and ONNX Runtime does as it is told. A bundle of a stranger gets none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sc2onnx.manifest import RING, Manifest
from sc2onnx.runtime.graph_facts import OnnxGraph

CONTRIB: Final = "com.microsoft"
MATMUL_NBITS: Final = f"{CONTRIB}.MatMulNBits"
GATHER_NBITS: Final = f"{CONTRIB}.GatherBlockQuantized"
GROUPED_QUERY: Final = f"{CONTRIB}.GroupQueryAttention"

ATTRIBUTES: Final[Mapping[str, frozenset[str]]] = {
    operator: frozenset(names.split())
    for operator, names in {
        "ArgMax": "axis keepdims",
        "Cast": "to",
        "Concat": "axis",
        "DequantizeLinear": "axis block_size",
        "Gather": "axis",
        "Gelu": "approximate",
        "Gemm": "transB",
        "LayerNormalization": "axis epsilon",
        "ReduceSum": "keepdims",
        "Reshape": "allowzero",
        "ScatterElements": "axis",
        "Shape": "end start",
        "Softmax": "axis",
        "Split": "axis",
        "TensorScatter": "axis mode",
        "Transpose": "perm",
        MATMUL_NBITS: "K N accuracy_level bits block_size",
        GATHER_NBITS: "bits block_size gather_axis quantize_axis",
        GROUPED_QUERY: "do_rotary kv_num_heads local_window_size num_heads",
    }.items()
}
"""Attributes of the operators that have some."""

_MODEL: Final = "Add Cast Concat Gather Gelu Gemm LayerNormalization MatMul Mul Reshape Shape Slice Squeeze Sub"
_HEADS: Final = "And GreaterOrEqual Less Range RotaryEmbedding Softmax Split Transpose Unsqueeze Where"
_NBITS: Final = f"{MATMUL_NBITS} {GATHER_NBITS}"

ALLOWED: Final[Mapping[str, frozenset[str]]] = {
    target: frozenset(names.split())
    for target, names in {
        "cpu": f"{_MODEL} {_HEADS} {_NBITS} Mod TensorScatter",
        "portable": f"{_MODEL} {_HEADS} DequantizeLinear Expand Mod ScatterElements TensorScatter",
        "cuda": f"{_MODEL} {_NBITS} {GROUPED_QUERY} ArgMax Equal ReduceSum Where",
        "genai": f"{_MODEL} {_NBITS} {GROUPED_QUERY} ReduceSum",
        "optimum": f"{_MODEL} {_HEADS} {_NBITS} CumSum Max",
    }.items()
}
"""Operators by target. TensorScatter for ``portable``: earlier exporters wrote it."""


def check_operators(graph: OnnxGraph, manifest: Manifest) -> None:
    """Raise :class:`ValueError` for an operator, an attribute or a use that the exporter does not write for the manifest's target."""
    ring_for_cuda = manifest.target == "cuda" and manifest.cache.kind == RING  # of earlier exporters
    allowed = ALLOWED["cpu" if ring_for_cuda else manifest.target]
    if foreign := set(graph.opsets) - {"", CONTRIB}:
        raise ValueError(f"it imports operators of {sorted(foreign)[0][:80]!r}, which the exporter never writes")
    for node in graph.nodes:
        if node.operator not in allowed:
            raise ValueError(f"it has the operator {node.operator[:80]!r}, which the exporter never writes for {manifest.target}")
        if unknown := set(node.attributes) - ATTRIBUTES.get(node.operator, frozenset()):
            raise ValueError(f"its {node.operator} has the attribute {sorted(unknown)[0][:80]!r}, which the exporter never writes")
    _check_sizes(graph)


def _check_sizes(graph: OnnxGraph) -> None:
    """Refuse what would count, or write out, to a number of the file's choice: only shapes say how far.

    A remainder by a zero of the file would end the process.
    """
    made_by = {output: node for node in graph.nodes for output in node.outputs}

    def measured(name: str) -> bool:
        node = made_by.get(name)
        if node is not None and node.operator == "Squeeze":
            node = made_by.get(node.inputs[0]) if node.inputs else None
        return node is not None and node.operator == "Shape"

    sizes = {"Range": 1, "Expand": 1, "Mod": 1}  # which input
    for node in graph.nodes:
        number = sizes.get(node.operator)
        if number is not None and not (len(node.inputs) > number and measured(node.inputs[number])):
            raise ValueError(f"its {node.operator} takes a size that is not a shape's, which the exporter never writes")
        if node.operator == "Range":
            first, step = (_scalar(graph, name) for name in (node.inputs[0], node.inputs[-1]))
            if (first, step) != (0, 1) or len(node.inputs) != 3:
                raise ValueError(f"its Range counts from {first} in steps of {step}, expected 0 and 1")


def _scalar(graph: OnnxGraph, name: str) -> int | None:
    tensor = graph.tensors.get(name)
    values = tensor.integers if tensor is not None else None
    return values[0] if values is not None and len(values) == 1 else None
