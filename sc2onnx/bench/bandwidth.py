"""The rate at which this machine's processors read memory: what decoding is measured against."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt

_BYTES: Final = 512 << 20
"""Far above any cache, so that every pass comes from memory."""

_PASSES: Final = 7


def read_rate(threads: int, nbytes: int = _BYTES, passes: int = _PASSES) -> float:
    """Bytes per second that ``threads`` read together, the best of some passes.

    Each takes the maximum of its slice of one float32 array: numpy does that in vectors, without
    Python's lock and with less arithmetic than loads. The array is written first, because a page
    that never was is the same few bytes for everybody.
    """
    slices = np.array_split(np.ones(nbytes // 4, dtype=np.float32), threads)
    with ThreadPoolExecutor(threads) as pool:
        return nbytes / min(_seconds(pool, slices) for _ in range(passes))


def _seconds(pool: ThreadPoolExecutor, slices: Sequence[npt.NDArray[np.float32]]) -> float:
    began = time.perf_counter()
    for _ in pool.map(np.max, slices):
        pass
    return time.perf_counter() - began
