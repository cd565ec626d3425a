"""Caches of several rows, made of others."""

from __future__ import annotations

from collections.abc import Sequence

from sc2onnx.runtime.cache.ring import RingCache


def rows_of(cache: RingCache, rows: Sequence[int]) -> RingCache:
    """A cache with these rows of another, in this order."""
    return RingCache.stacked(len(rows), [(cache, row) for row in rows])


def stacked(caches: Sequence[RingCache]) -> RingCache:
    """A cache with the rows of all."""
    members = [(cache, row) for cache in caches for row in range(cache.rows)]
    return RingCache.stacked(len(members), members)
