"""What a model's cache is made of: the graph's own keys and values, or the slots of the
kernels of ``sc2onnx-kernels``.

The kernels keep (rows, kv_heads, capacity, slot bytes) of uint8, keys and values alike,
and alone know what the bytes mean: a tile of 16 slots is so many consecutive bytes in
whatever order suits them.
"""

from __future__ import annotations

from typing import Final, Literal

from sc2onnx.bundle.contract import RING
from sc2onnx.bundle.facts import CacheLayout, ModelFacts
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.runtime.cache.shape import CHUNK, CacheShape, default_capacity, round_up

TILE: Final = 16
"""Slots of a tile."""

SlotType = Literal["int8", "float32"]
"""What the kernels keep of a key or a value: int8 with a scale for each
slot and head, or float32.
"""


def slot_bytes(kept: SlotType, head_dim: int) -> int:
    """Bytes of one slot of one head: of 128 channels 132 in int8, its scale
    included, and 512 in float32.
    """
    return head_dim + 4 if kept == "int8" else 4 * head_dim


def cache_shape(
    manifest: Manifest,
    chunk: int = CHUNK,
    capacity: int | None = None,
    kept: SlotType | None = None,
) -> CacheShape:
    """The cache of one sequence, exact for steps of ``chunk`` tokens
    unless a ``capacity`` is given.

    ``kept``: what the kernels keep; None: the cache is the graph's. Raises
    :class:`~sc2onnx.errors.RequestError` for a capacity below the window.
    """
    return shape_ahead(manifest.model, manifest.cache, chunk, capacity, kept)


def shape_ahead(
    facts: ModelFacts,
    layout: CacheLayout,
    chunk: int = CHUNK,
    capacity: int | None = None,
    kept: SlotType | None = None,
) -> CacheShape:
    """:func:`cache_shape` of a bundle that is not there yet.

    A cache that keeps every position is, to its arithmetic, one whose window is the context.
    """
    window, context, tile = layout.window(facts), facts.context_length, TILE if kept else 1
    wanted = default_capacity(window, context, chunk) if capacity is None else capacity
    slots = round_up(min(wanted, context), tile)
    width = slot_bytes(kept, facts.head_dim) if kept else facts.head_dim
    turned, dtype = (False, "uint8") if kept else (layout.kind == RING, layout.dtype)
    return CacheShape(
        facts.num_layers, facts.num_kv_heads, width, window, context, slots, dtype, turned, tile
    )
