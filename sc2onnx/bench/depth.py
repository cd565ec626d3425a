"""A sequence that is as long as it says without having been computed: what a token costs there,
without minutes of prefill.

What attention costs depends on how many slots it reads, not on what is in them. So the cache is
taken through the very steps of a prefill (it grows, wraps and counts as it would) and the computing
is left out. The slots are written, with noise: memory that nobody has written is one page of zeros
for all, and would be read from the processor's cache. The logits mean nothing.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sc2onnx.runtime.cache.shape import CacheShape
from sc2onnx.runtime.engine.sequence import TokenSequence
from sc2onnx.runtime.model import Model

_SIZE: Final = 0.1
"""Of the noise: no subnormal numbers, which some processors are slow with, and
no softmax that overflows.
"""


def placed(model: Model, depth: int) -> TokenSequence:
    """A sequence of ``depth`` tokens, not computed. Close it when done."""
    sequence = model.sequence()
    if depth:
        sequence.place(depth, noise(model.cache_shape, model.cache_shape.capacity))
    return sequence


def noise(shape: CacheShape, slots: int) -> npt.NDArray[Any]:
    """Contents (kv_heads, slots, width) that are harmless to compute with.

    Opaque slots are filled with bytes of 0x3a to 0x3d: as codes they are about 60, and wherever
    four of them are taken for a float32, it is one from 0.0004 to 0.13.
    """
    random, size = np.random.default_rng(0), (shape.kv_heads, slots, shape.width)
    if shape.dtype == "uint8":
        return random.integers(0x3A, 0x3E, size, np.uint8)
    return random.standard_normal(size, dtype=np.float32) * _SIZE
