"""Names of files and tensors, kinds of caches and the format version: what both flats agree on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from sc2onnx.bundle import adapters, kernels

FORMAT_VERSION: Final = 8
"""Raised whenever an older runtime would misread the bundle."""

MANIFEST_FILE: Final = "sc2onnx.json"
GRAPH_FILE: Final = "model.onnx"
WEIGHTS_FILE: Final = "model.onnx.data"
CARD_FILE: Final = "README.md"
TOKENIZER_FILE: Final = "tokenizer.json"

INPUT_IDS: Final = "input_ids"
"""Input int64 (batch, step): the new tokens."""

PAST_LENGTHS: Final = "past_lengths"
"""Input int64 (batch,): tokens that each row has in the cache already."""

ATTENTION_MASK: Final = "attention_mask"
"""Input int64 (batch, past + step): 1 for tokens, 0 for padding. Graphs for other runtimes have it
instead of :data:`PAST_LENGTHS`."""

NUM_LOGITS: Final = "num_logits"
"""Input int64 (1,): how many last positions get logits. It is optional, 1 by default."""

LOGITS: Final = "logits"
"""Output float32 (batch, num_logits, vocab)."""

GREEDY_IDS: Final = "greedy_ids"
"""Output int64 (batch, num_logits) of graphs for CUDA: the most likely token of each position, -1
where logits are not numbers."""

HIDDEN: Final = "hidden_states"
"""Input (batch * step, hidden), of the cache's type: what a stage takes from the one before it."""

NEXT_HIDDEN: Final = "next_hidden_states"
"""Output of the same shape and type: what a stage hands on."""

RING: Final = "ring-transposed-values"
"""Keys of (batch, kv_heads, capacity, head_dim) and values of (batch, kv_heads, head_dim, capacity)
in each layer; position p lies in slot p mod capacity (docs/decisions/0001-ring-attention.md)."""

LINEAR: Final = "linear"
"""Keys and values of (batch, kv_heads, capacity, head_dim); position p lies in slot p, so that the
capacity bounds the tokens (docs/decisions/0013-cuda.md)."""

GROWING: Final = "growing"
"""Keys and values of (batch, kv_heads, length, head_dim), given back with the step behind them, for
other runtimes (docs/decisions/0014-other-runtimes.md)."""


def past_name(layer: int | str, kind: str) -> str:
    """Return the name of a cache input; ``kind`` is ``"key"`` or ``"value"``.

    The shape follows from the kind of the cache: :data:`RING`, :data:`LINEAR`, :data:`GROWING`.
    """
    return f"past_key_values.{layer}.{kind}"


def present_name(layer: int | str, kind: str) -> str:
    """Return the name of the cache output that belongs to :func:`past_name`, of the same shape."""
    return f"present.{layer}.{kind}"


def graph_files(stages: Sequence[int]) -> tuple[str, ...]:
    """Return the names of the graphs: ``model.onnx``, or of stages ``model.0.onnx`` and so on."""
    return tuple(f"model.{number}.onnx" for number in range(len(stages))) or (GRAPH_FILE,)


def kernel_graph_files(stages: Sequence[int]) -> tuple[str, ...]:
    """Return the names of the graphs for the kernels.

    They are ``model.kernels.onnx``, or of stages ``model.0.kernels.onnx`` and so on.
    """
    return tuple(map(kernels.graph_name, graph_files(stages)))


def adapter_graph_files(stages: Sequence[int]) -> tuple[str, ...]:
    """Return the names of the graphs that take adapters.

    They are ``model.adapters.onnx``, or of stages ``model.0.adapters.onnx`` and so on.
    """
    return tuple(map(adapters.graph_name, graph_files(stages)))


def plain_file_name(name: str) -> bool:
    """Whether ``name`` is that of a file in the bundle's own directory on any operating system."""
    return len(name) < 256 and bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name))
