"""The memory that running a bundle takes at a given context, before anything of it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from sc2onnx.bundle.facts import CacheLayout, ModelFacts
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import RequestError
from sc2onnx.runtime.cache.shape import first_capacity
from sc2onnx.runtime.cache.slots import SlotType, shape_ahead


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes that running takes beside the interpreter, by construction, with one
    sequence of ``context`` tokens.

    A cache that grew token by token may have a quarter more slots; none has more
    than at the full context.
    """

    context: int
    cache_slots: int
    weights: int
    cache: int
    total: int


def memory_need(
    manifest: Manifest, context: int | None = None, kept: SlotType | None = None
) -> MemoryNeed:
    """With the cache capacity that :func:`sc2onnx.load` chooses by default.
    Raises :class:`RequestError` beyond the model's context.

    ``kept``: what the kernels keep of keys and values; None: the bundle runs without them.
    """
    return memory_ahead(manifest.model, manifest.cache, manifest.weight_bytes, context, kept)


def memory_ahead(
    facts: ModelFacts,
    layout: CacheLayout,
    weight_bytes: int,
    context: int | None = None,
    kept: SlotType | None = None,
) -> MemoryNeed:
    """:func:`memory_need` of a bundle that is not there yet."""
    context = facts.context_length if context is None else context
    if not 1 <= context <= facts.context_length:
        raise RequestError(
            f"the context is {context}, expected 1 to {facts.context_length}, the model's own"
        )
    shape = shape_ahead(facts, layout, kept=kept)
    slots = first_capacity(context, shape.capacity)
    cache = shape.nbytes // shape.capacity * slots
    return MemoryNeed(context, slots, weight_bytes, cache, weight_bytes + cache)
