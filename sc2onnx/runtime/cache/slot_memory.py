"""The memory of slots: rows of one cache, each of one sequence, at the full capacity.

Memory that was never written takes none, so a slot costs what its sequence needs.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sc2onnx.runtime.cache.shape import STORAGE, CacheShape, round_up

_PAGE: Final = mmap.PAGESIZE

Array = npt.NDArray[Any]


class SlotMemory:
    """Keys and values (slots, kv_heads, capacity, width) by layer, zero until they are written."""

    def __init__(self, shape: CacheShape, slots: int) -> None:
        self.shape, self.slots = shape, slots
        size = (slots, shape.kv_heads, shape.capacity, shape.width)
        dtype = np.dtype(STORAGE[shape.dtype])
        bytes_ = int(np.prod(size)) * dtype.itemsize
        self._maps = [_mapped(bytes_) for _ in range(2 * shape.layers)]
        self.buffers = [np.frombuffer(each, dtype).reshape(size) for each in self._maps]

    def read(self, slot: int, length: int) -> list[Array]:
        """The first ``length`` positions of a slot, a copy."""
        return [buffer[slot, :, :length].copy() for buffer in self.buffers]

    def write(self, slot: int, parts: Sequence[Array]) -> None:
        """Put what :meth:`read` gave into a slot."""
        for buffer, part in zip(self.buffers, parts, strict=True):
            buffer[slot, :, : part.shape[1]] = part

    def copy(self, source: int, slot: int, length: int) -> None:
        """Copy the first ``length`` positions of one slot to another."""
        for buffer in self.buffers:
            buffer[slot, :, :length] = buffer[source, :, :length]

    def release(self, slot: int) -> None:
        """Give the pages of a slot back to the system, where it takes them; they are zero then."""
        if not hasattr(mmap, "MADV_DONTNEED") or sys.platform != "linux":
            return
        for each in self._maps:
            size = len(each) // self.slots
            first, end = round_up(slot * size, _PAGE), (slot + 1) * size // _PAGE * _PAGE
            if first < end:
                each.madvise(mmap.MADV_DONTNEED, first, end - first)


def _mapped(size: int) -> mmap.mmap:
    """Zeros that take no memory until they are written, and are a process's own."""
    if hasattr(mmap, "MAP_ANONYMOUS"):
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return mmap.mmap(-1, size)
