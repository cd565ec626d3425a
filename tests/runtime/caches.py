"""Caches of several rows, made of others."""

from __future__ import annotations

from collections.abc import Sequence

from sc2onnx.runtime.cache.ring import RingCache


def rows_of(cache: RingCache, rows: Sequence[int]) -> RingCache:
    """A cache with these rows of another, in this order."""
    return _gathered([(cache, row) for row in rows])


def stacked(caches: Sequence[RingCache]) -> RingCache:
    """A cache with the rows of all."""
    return _gathered([(cache, row) for cache in caches for row in range(cache.rows)])


def _gathered(rows: Sequence[tuple[RingCache, int]]) -> RingCache:
    slots, first = max(cache.capacity for cache, _ in rows), rows[0][0]
    made = RingCache(first.shape, rows=len(rows), slots=slots, storage=first.storage)
    for place, (cache, row) in enumerate(rows):
        made.place(place, cache, row)
    return made
