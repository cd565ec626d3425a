"""Which bundles get a second graph, for the operators of the wheel ``sc2onnx-kernels``.

That graph lies beside the one that every runtime reads, and takes the same weights from the same
places. It is written for what those operators compute; whoever lacks them needs none of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from sc2onnx.bundle.schemes import Scheme

if TYPE_CHECKING:
    from sc2onnx.bundle.targets import Target

DOMAIN: Final = "sc2onnx"
"""Domain of the operators."""

VERSION: Final = 2
"""Version of the domain that this version writes and runs."""

LINEAR: Final = "BlockwiseLinear"
"""``[gelu](layer_norm(x) W^T + bias) + residual``, with integers in blocks."""

ATTENTION: Final = "RingAttention"
"""Rotation, writing into the ring, and attention over it."""

STEP_LENGTHS: Final = "step_lengths"
"""Input of these graphs, int64 (runs,): tokens of each sequence in a step whose sequences differ in
that; then ``input_ids`` has one row. Empty by default: as many of each row."""

CACHE_ROWS: Final = "cache_rows"
"""Input of these graphs, int64 (runs,): the row of the cache that belongs to each sequence of a
step. Empty by default: in order.
"""

TILE: Final = 16
"""Channels that the operators take at once, which the size of a head is a multiple of."""

ENDING: Final = ".kernels.onnx"
"""What names of these graphs end with, in the place of ``.onnx``."""

_BLOCK_SIZES: Final = (16, 32, 64, 128, 256)
_SCHEMES: Final = frozenset(Scheme(bits, size) for bits in (4, 8) for size in _BLOCK_SIZES)


def version_for(target: Target, *, ring: bool, schemes: Iterable[Scheme], head_dim: int) -> int:
    """The version of the operators that a model can be computed with, 0 if it cannot.

    ``ring``: whether its cache is one; ``schemes``: of all matrices, none for floats. What else
    they need is in the graph: layer norms, and GELU in the approximation by tanh.
    """
    used = set(schemes)
    fits = target.kernels and ring and bool(used) and used <= _SCHEMES and head_dim % TILE == 0
    return VERSION if fits else 0


def graph_name(graph: str) -> str:
    """``model.onnx`` -> ``model.kernels.onnx``."""
    return graph.removesuffix(".onnx") + ENDING
