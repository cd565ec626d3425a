"""Which bundles get a second graph, for the operators of the wheel ``sc2onnx-kernels``.

That graph lies beside the one that every runtime reads, and takes the same weights from the same
places. It is written for what those operators compute; whoever lacks them needs none of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from sc2onnx.bundle.schemes import Scheme

if TYPE_CHECKING:
    from sc2onnx.bundle.targets import Target

MODULE: Final = "sc2onnx_kernels"
"""The Python module that the wheel ``sc2onnx-kernels`` installs."""

VARIABLE: Final = "SC2ONNX_RUN_KERNELS"
"""The environment's word on whether they are used: ``auto``, ``on`` or ``off``."""

DOMAIN: Final = "sc2onnx"
"""Domain of the operators."""

VERSION: Final = 4
"""Version of the domain that this version writes."""

OLDEST: Final = 2
"""The oldest version of the domain that this version runs."""

WITH_ADAPTERS: Final = 3
"""The first version of the domain whose products take adapters."""

WITH_FINE_HEAD: Final = 4
"""The first version of the domain whose products may take activations in :data:`FINE_BITS`."""

FINE_BITS: Final = 16
"""Bits of activations that are rounded twice: to int8, and what that takes away to int8 again."""

LINEAR: Final = "BlockwiseLinear"
"""``[gelu](layer_norm(x) W^T + bias + adapter) + residual``, with integers in blocks."""

ATTENTION: Final = "RingAttention"
"""Rotation, writing into the ring, and attention over it."""

STEP_LENGTHS: Final = "step_lengths"
"""Input of these graphs, int64 (runs,): tokens of each sequence in a step whose sequences differ in
that; then ``input_ids`` has one row. Empty by default: as many of each row."""

CACHE_ROWS: Final = "cache_rows"
"""Input of these graphs, int64 (runs,): the row of the cache that belongs to each sequence of a
step. Empty by default: in order.
"""

ADAPTER_OF_TOKEN: Final = "adapter_of_token"  # noqa: S105  # no password
"""Input of these graphs, int64 (tokens,): the adapter of each token of a pass in the order of
``input_ids``, a number of the first axis of :data:`ADAPTER_TABLE`; -1: none. Empty by default:
no token has one, and the other three inputs are not looked at.
"""

ADAPTER_SCALES: Final = "adapter_scales"
"""Input of these graphs, float32 (tokens,): what the adapter's part is multiplied by for each token
of a pass. Empty by default: 1 for all."""

ADAPTER_TABLE: Final = "adapter_table"
"""Input of these graphs, int64 (adapters, products, segments, 5): what each adapter adds to each
product, :data:`SegmentEntry` by segment; all zeros where it adds nothing.

Products are numbered by :func:`product_number`, whatever stage they are in; the output head takes
no adapter. There are as many
segments as the adapters need, three for adapters of queries, keys and values. Segments may be of
the same outputs: their parts are added in order.
"""

ADAPTER_WEIGHTS: Final = "adapter_weights"
"""Input of these graphs, uint8 (bytes,): the matrices of all adapters, where the table says.

``A`` (rank, inputs) is int8 with a float32 scale for each rank. It lies in tiles of 16 ranks, the
last filled up with zeros: codes + 128 as (inputs / 4, 16, 4), then 16 scales. ``B`` (outputs, rank)
is float16, multiplied by the adapter's scale, and lies in tiles of 16 outputs as (rank, 16): in
numpy ``B.reshape(-1, 16, rank).transpose(0, 2, 1)``.
"""

PLACES: Final = 64
"""Matrices begin at multiples of it in :data:`ADAPTER_WEIGHTS`, in bytes."""

ADAPTER_INPUTS: Final = (ADAPTER_OF_TOKEN, ADAPTER_SCALES, ADAPTER_TABLE, ADAPTER_WEIGHTS)
"""The inputs of adapters in the order in which a product takes them, behind all others."""

ADAPTED: Final = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.c_fc", "mlp.c_proj")
"""A layer's products, in the order of their numbers."""


class SegmentEntry(NamedTuple):
    """A part of an adapter: ``B (A x)`` is added to consecutive outputs of a product.

    ``first_output`` and ``outputs`` are multiples of :data:`TILE`: the query, key or value rows of
    the fused product, or all rows of another. ``rank`` 0: nothing. ``a`` and ``b``: where the
    matrices begin in :data:`ADAPTER_WEIGHTS`, in bytes, at multiples of :data:`PLACES`.
    """

    first_output: int = 0
    outputs: int = 0
    rank: int = 0
    a: int = 0
    b: int = 0


def product_number(layer: int, product: str) -> int:
    """The number of a product in :data:`ADAPTER_TABLE`; ``product``: one of :data:`ADAPTED`."""
    return layer * len(ADAPTED) + ADAPTED.index(product)


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


def has_fine_head(version: int, schemes: Iterable[Scheme]) -> bool:
    """Whether the output head of a graph takes activations in 16 bits rather than 8.

    So it is where all matrices, whose ``schemes`` these are, have 8 bits: their roundings are so
    small that the one before the head is a sixth of all divergence. ``version``: of the operators
    that the graph is written for.
    """
    return version >= WITH_FINE_HEAD and {scheme.bits for scheme in schemes} == {8}


def runs(version: int) -> bool:
    """Whether this version runs graphs for that version of the operators."""
    return OLDEST <= version <= VERSION


def graph_name(graph: str) -> str:
    """``model.onnx`` -> ``model.kernels.onnx``."""
    return graph.removesuffix(".onnx") + ENDING
