"""A sequence that is as long as it says without having been computed: what a token costs there, without minutes of prefill.

What attention costs depends on how many slots it reads, not on what is in them. So the cache is taken through the very steps of a
prefill (:meth:`RingCache.begin`, :meth:`RingCache.commit`: it grows, wraps and counts as it would) and the computing is left out.
The slots are written, with noise: memory that nobody has written is one page of zeros for all, and would be read from the
processor's cache. The logits mean nothing.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sc2onnx.runtime.cache.ring import RingCache
from sc2onnx.runtime.cache.shape import CHUNK, CacheShape
from sc2onnx.runtime.decoder import Decoder
from sc2onnx.runtime.model import Model

_SIZE: Final = 0.1
"""Of the noise: no subnormal numbers, which some processors are slow with, and no softmax that overflows."""


def placed(model: Model, depth: int) -> Decoder:
    """A decoder of one row of ``depth`` tokens, not computed. Close it when done."""
    decoder = model._decoder()  # registered with the model, so that its memory is counted
    place(decoder.cache, depth)
    return decoder


def place(cache: RingCache, depth: int) -> None:
    """Advance every row of an empty cache to ``depth`` tokens, in a prefill's steps, and fill its slots with noise."""
    assert not cache.lengths.any()
    done = 0
    while done < depth:
        step = min(CHUNK, cache.longest_step(), depth - done)
        cache.begin(step)
        cache.commit(step)
        done += step
    if depth:
        cache.fill(noise(cache.shape, cache.capacity))


def noise(shape: CacheShape, slots: int) -> npt.NDArray[Any]:
    """Contents (kv_heads, slots, width) that are harmless to compute with.

    Opaque slots are filled with bytes of 0x3a to 0x3d: as codes they are about 60, and wherever four of them are taken for
    a float32, it is one from 0.0004 to 0.13.
    """
    random, size = np.random.default_rng(0), (shape.kv_heads, slots, shape.width)
    if shape.dtype == "uint8":
        return random.integers(0x3A, 0x3E, size, np.uint8)
    return random.standard_normal(size, dtype=np.float32) * _SIZE
