"""The operators that a bundle's graph may have: those that the exporter writes, by target.

ONNX has operators that loop without an end, make tensors of any size or call functions of the file,
and ONNX Runtime does as it is told. A bundle of a stranger gets none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sc2onnx.bundle.contract import RING
from sc2onnx.bundle.kernels import ATTENTION, DOMAIN, FINE_BITS, LINEAR
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.targets import CPU, CUDA, TARGETS, Attention, Products
from sc2onnx.runtime.opening.onnx_graph import (
    BFLOAT16,
    BOOL,
    FLOAT,
    FLOAT16,
    INT32,
    INT64,
    OnnxGraph,
)

CONTRIB: Final = "com.microsoft"
MATMUL_NBITS: Final = f"{CONTRIB}.MatMulNBits"
GATHER_NBITS: Final = f"{CONTRIB}.GatherBlockQuantized"
GROUPED_QUERY: Final = f"{CONTRIB}.GroupQueryAttention"
BLOCKWISE_LINEAR: Final = f"{DOMAIN}.{LINEAR}"
RING_ATTENTION: Final = f"{DOMAIN}.{ATTENTION}"

TOKENWISE: Final = (0, 1, 2, 4, 3)
"""A transposition that only graphs have whose attention is computed token by token, so that
steps of any length agree.
"""

_Values = frozenset[tuple[int, ...] | bytes]


def _ints(*values: int) -> _Values:
    return frozenset((value,) for value in values)


_COMPARED: Final = _Values()
"""Values that are compared with the manifest (:mod:`sc2onnx.runtime.opening.agreement`)."""

ATTRIBUTES: Final[Mapping[str, Mapping[str, _Values]]] = {
    "ArgMax": {"axis": _ints(-1), "keepdims": _ints(0)},
    "Cast": {"to": _ints(FLOAT, INT32, INT64, BOOL, FLOAT16, BFLOAT16)},
    "Concat": {"axis": _ints(0, 1, 2)},
    "DequantizeLinear": {"axis": _ints(0), "block_size": _COMPARED},
    "Gather": {"axis": _ints(0, 1)},
    "Gelu": {"approximate": frozenset({b"none", b"tanh"})},
    "Gemm": {"transB": _ints(1)},
    "LayerNormalization": {"axis": _ints(-1), "epsilon": _COMPARED},
    "ReduceMax": {"keepdims": _ints(1)},
    "ReduceSum": {"keepdims": _ints(0)},
    "Reshape": {"allowzero": _ints(1)},
    "ScatterElements": {"axis": _ints(2, 3)},
    "Shape": {"start": _ints(0, 1, 2), "end": _ints(1, 2, 3)},
    "Softmax": {"axis": _ints(-1)},
    "Split": {"axis": _ints(1)},
    "TensorScatter": {"axis": _ints(-2, -1), "mode": frozenset({b"circular"})},
    "Transpose": {
        "perm": frozenset({(1, 0), (0, 2, 1, 3), (0, 1, 3, 2), (0, 1, 3, 2, 4), TOKENWISE})
    },
    MATMUL_NBITS: {
        "K": _COMPARED,
        "N": _COMPARED,
        "bits": _COMPARED,
        "block_size": _COMPARED,
        "accuracy_level": _ints(4),
    },
    GATHER_NBITS: {
        "bits": _COMPARED,
        "block_size": _COMPARED,
        "gather_axis": _ints(0),
        "quantize_axis": _ints(1),
    },
    GROUPED_QUERY: {
        "num_heads": _COMPARED,
        "kv_num_heads": _COMPARED,
        "local_window_size": _COMPARED,
        "do_rotary": _ints(1),
    },
    BLOCKWISE_LINEAR: {
        **dict.fromkeys(("K", "N", "bits", "block_size", "epsilon"), _COMPARED),
        "activation_bits": _ints(FINE_BITS),
        "gelu": _ints(1),
        "product": _COMPARED,
    },
    RING_ATTENTION: {"num_heads": _COMPARED, "num_kv_heads": _COMPARED, "window": _COMPARED},
}
"""Attributes of the operators that have some, and the values that they may have."""

_MODEL: Final = (
    "Add Cast Concat Gather Gelu Gemm LayerNormalization Reshape Shape Squeeze Sub".split()
)
_MASKED: Final = "And GreaterOrEqual Less MatMul Mul Range Softmax Where".split()
_HEADS: Final = [*_MASKED, *"RotaryEmbedding Slice Split Transpose Unsqueeze".split()]
_RING: Final = [*_HEADS, *"Equal Mod ReduceMax TensorScatter".split()]

_ATTENTION: Final[Mapping[Attention, Sequence[str]]] = {
    "ring": _RING,
    "scattered-ring": [*_RING, "Expand", "ScatterElements"],
    "grouped-query": [GROUPED_QUERY, *"ArgMax Equal Mul ReduceSum Slice Where".split()],
    "masked-grouped-query": [GROUPED_QUERY, "ReduceSum"],
    "growing": [*_HEADS, "CumSum", "Max"],
}
"""Operators of each attention, and of choosing tokens. Earlier exporters wrote TensorScatter for
``scattered-ring`` too."""

_PRODUCTS: Final[Mapping[Products, Sequence[str]]] = {
    "nbits": [MATMUL_NBITS, GATHER_NBITS],
    "nbits-apart": [MATMUL_NBITS, GATHER_NBITS],
    "standard": ["DequantizeLinear"],
}

ALLOWED: Final[Mapping[str, frozenset[str]]] = {
    name: frozenset([*_MODEL, *_ATTENTION[target.attention], *_PRODUCTS[target.products]])
    for name, target in TARGETS.items()
}
"""Operators by target."""

KERNELS: Final = frozenset(
    (
        "Cast",
        "Concat",
        "Reshape",
        "Shape",
        "Slice",
        "Sub",
        GATHER_NBITS,
        BLOCKWISE_LINEAR,
        RING_ATTENTION,
    ),
)
"""Operators of graphs for the kernels, whose domain no other graph has."""


ADAPTERS: Final = frozenset(("MatMul", "Mul", "Slice"))
"""Operators that graphs have besides because they take adapters."""


def check_operators(
    graph: OnnxGraph, manifest: Manifest, *, kernels: bool = False, adapters: bool = False
) -> None:
    """Raise :class:`ValueError` for an operator, an attribute or a use that the exporter does not
    write for the manifest's target.

    ``kernels``: whether it is a graph for the kernels; ``adapters``: whether it is one that takes
    adapters.
    """
    target = manifest.made_for
    if target is CUDA and manifest.cache.kind == RING:  # of earlier exporters
        target = CPU
    allowed = KERNELS if kernels else ALLOWED[target.name]
    if adapters:
        allowed |= ADAPTERS
    if foreign := set(graph.opsets) - {"", CONTRIB} - ({DOMAIN} if kernels else set()):
        raise ValueError(
            f"it imports operators of {sorted(foreign)[0][:80]!r}, which the exporter never writes"
        )
    for node in graph.nodes:
        if node.operator not in allowed:
            raise ValueError(
                f"it has the operator {node.operator[:80]!r}, which the exporter never writes "
                f"for {manifest.target}"
            )
        known = ATTRIBUTES.get(node.operator, {})
        for name, value in node.attributes.items():
            if name not in known or (known[name] and value not in known[name]):
                raise ValueError(
                    f"its {node.operator} has {name[:80]!r} = {str(value)[:80]}, which "
                    "the exporter never writes"
                )
    _check_sizes(graph)


def _check_sizes(graph: OnnxGraph) -> None:
    """Refuse what would count, or write out, to a number of the file's
    choice: only shapes say how far.

    A remainder by a zero of the file would end the process.
    """
    made_by = {output: node for node in graph.nodes for output in node.outputs}

    def measured(name: str) -> bool:
        node = made_by.get(name)
        if node is not None and node.operator == "Squeeze":
            node = made_by.get(node.inputs[0]) if node.inputs else None
        return node is not None and node.operator == "Shape"

    def divides(name: str) -> bool:
        tensor = graph.tensors.get(name)
        return tensor is not None and bool(tensor.integers) and 0 not in (tensor.integers or ())

    sizes = {"Range": 1, "Expand": 1, "Mod": 1}  # which input
    for node in graph.nodes:
        number = sizes.get(node.operator)
        if number is None:
            continue
        name = node.inputs[number] if len(node.inputs) > number else ""
        if not measured(name) and not (node.operator == "Mod" and divides(name)):
            raise ValueError(
                f"its {node.operator} takes a size that is not a shape's, which "
                "the exporter never writes"
            )
        if node.operator == "Range":
            first, step = (_scalar(graph, name) for name in (node.inputs[0], node.inputs[-1]))
            if (first, step) != (0, 1) or len(node.inputs) != 3:
                raise ValueError(
                    f"its Range counts from {first} in steps of {step}, expected 0 and 1"
                )


def _scalar(graph: OnnxGraph, name: str) -> int | None:
    tensor = graph.tensors.get(name)
    values = tensor.integers if tensor is not None else None
    return values[0] if values is not None and len(values) == 1 else None
