"""Adapters (LoRA) that are taken at run time: their files, and the graphs that take them.

An adapter adds ``(x A) B`` to the product of a module. A graph that takes adapters has ``A`` and
``B`` of every module as optional inputs, empty by default; an adapter's file has its matrices under
the names of those inputs, so that whatever binds them by name can run it. Several adapters stand
side by side along the rank, and :data:`LANES` says which tokens see which of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

FACTS_FILE: Final = "sc2onnx-adapter.json"
"""In an adapter's directory: what it is, and the digest of its matrices."""

MATRICES_FILE: Final = "adapter.onnx_adapter"
"""In an adapter's directory: its matrices, in ONNX Runtime's own format of adapters."""

LANES: Final = "adapter_lanes"
"""Input of these graphs, of the activations' type, (tokens, ranks): what the inner value ``x A`` of
each token is multiplied by, rank by rank: 0 hides an adapter from a token. A module that has fewer
ranks takes the first of them. Optional, by default a single 1 for all tokens and ranks."""

MODULES: Final[Mapping[str, tuple[str, ...]]] = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.o_proj": ("self_attn.o_proj",),
    "mlp.c_fc": ("mlp.c_fc",),
    "mlp.c_proj": ("mlp.c_proj",),
}
"""A layer's products -> the modules of the checkpoint that they are made of, one above the other.
"""

ENDING: Final = ".adapters.onnx"
"""What names of graphs that take adapters end with, in the place of ``.onnx``."""


def matrix_name(layer: int, module: str, which: str) -> str:
    """The name of a matrix, in a file and as an input of a graph.

    ``module``: one of :data:`MODULES`; ``which``: ``"A"``, (inputs, ranks), or ``"B"``,
    (ranks, outputs), which the adapter's scale is multiplied into.
    """
    return f"model.layers.{layer}.{module}.lora_{which}"


def graph_name(graph: str) -> str:
    """``model.onnx`` -> ``model.adapters.onnx``."""
    return graph.removesuffix(".onnx") + ENDING
