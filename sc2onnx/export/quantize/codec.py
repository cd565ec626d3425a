"""Block-wise symmetric integers: an array -> codes and scales -> packed bytes, and back.
Pure numpy.

A block of ``block_size`` consecutive inputs of one output shares a scale:
``weight = code * scale``, with codes in ``-half .. half - 1``, half = ``2 ** (bits - 1)``. The
range has one more negative code, so scales carry a sign: the value of largest magnitude becomes
``-half`` whatever its own sign.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import ml_dtypes
import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.schemes import Scheme

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]

TILE: Final = 1 << 16
"""Elements handled at once: a tile and its temporaries stay in a core's cache."""

_LIMIT: Final = np.float32(2.0**128 - 2.0**120)
"""The largest number of bfloat16."""

_ZERO: Final = np.float32(1e-30)
"""Below this a block counts as zeros: its scale would not be a normal number."""

ZERO_SCALE: Final = np.float32(2.0**-98)
"""Of a block of zeros. Not 1: kernels subtract the zero point after multiplying, which leaves
rounding errors in proportion to the scale.
"""

_SHRINK: Final = {4: (1.0, 0.92, 0.85, 0.78), 8: (1.0,)}
"""Tried ranges, of the largest magnitude.
Clipping a little pays at 4 bits, where the step is coarse, and not at 8.
"""


@dataclass(frozen=True, slots=True)
class Quantised:
    """``codes`` int8 (rows, columns) and ``scales`` float32 (rows, columns / block_size)."""

    codes: Codes
    scales: Floats
    scheme: Scheme

    @property
    def zeros(self) -> npt.NDArray[np.bool_]:
        """Which blocks are zeros only, (rows, columns / block_size)."""
        rows, blocks = self.scales.shape
        return np.asarray(~self.codes.reshape(rows, blocks, -1).any(axis=-1))


def quantise(weights: Floats, scheme: Scheme, importance: Floats | None = None) -> Quantised:
    """Nearest codes under the scales that minimise the squared error of each block.

    weights: (rows, columns); importance: (columns,), the weight of each column's squared error. A
    few ranges are tried; for the codes that each gives, the best scale is ``sum(w c) / sum(c c)``,
    and the codes are rounded once more under it.
    """
    rows, columns = weights.shape
    codes = np.empty((rows, columns), dtype=np.int8)
    scales = np.empty((rows, columns // scheme.block_size), dtype=np.float32)
    # by a power of 2, which is exact: only ratios count, and sums must not overflow
    if importance is not None:
        importance = np.asarray(
            np.ldexp(importance, -np.frexp(importance.max())[1]), dtype=np.float32
        )

    def tile(first: int, stop: int) -> None:
        blocks = weights[first:stop].reshape(stop - first, -1, scheme.block_size)
        found = _best_scales(
            blocks,
            scheme,
            None if importance is None else importance.reshape(-1, scheme.block_size),
        )
        codes[first:stop] = nearest(blocks, found, scheme).reshape(stop - first, columns)
        scales[first:stop] = found[..., 0]

    by_tiles(tile, rows, columns)
    return Quantised(codes, scales, scheme)


def zero_blocks(weights: Floats, scheme: Scheme) -> npt.NDArray[np.bool_]:
    """Which blocks are zeros only once they are rounded to the nearest, (rows, columns /
    block_size).
    """
    rows, columns = weights.shape
    zeros = np.empty((rows, columns // scheme.block_size), dtype=np.bool_)

    def tile(first: int, stop: int) -> None:
        blocks = np.abs(weights[first:stop]).reshape(stop - first, -1, scheme.block_size)
        zeros[first:stop] = blocks.max(axis=-1) < _ZERO

    by_tiles(tile, rows, columns)
    return zeros


def dequantise(quantised: Quantised) -> Floats:
    """The weights that the codes stand for, (rows, columns)."""
    return np.asarray(
        quantised.codes * np.repeat(quantised.scales, quantised.scheme.block_size, axis=1),
        dtype=np.float32,
    )


def pack(codes: Codes, scheme: Scheme) -> npt.NDArray[np.uint8]:
    """codes (rows, columns) -> bytes (rows, columns * bits / 8), unsigned by adding half.

    Of two 4-bit codes the first is the low nibble: codes 1, -8 become 0x09. Source:
    ``MatMulNBits``, ONNX Runtime's contrib operators.
    """
    unsigned = codes.view(np.uint8) + np.uint8(scheme.half)  # wraps as it should
    return (
        unsigned
        if scheme.bits == 8
        else unsigned[:, ::2] & np.uint8(15) | unsigned[:, 1::2] << np.uint8(4)
    )


def unpack(packed: npt.NDArray[np.uint8], scheme: Scheme) -> Codes:
    """What :func:`pack` packed."""
    if scheme.bits == 4:
        packed = np.stack([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1).reshape(
            len(packed), -1
        )
    return (packed - np.uint8(scheme.half)).view(np.int8)


def by_tiles(work: Callable[[int, int], None], rows: int, columns: int) -> None:
    """Call ``work(first, stop)`` for ranges of rows small enough for the cache, on all processors
    (numpy lets threads run).
    """
    height = max(1, TILE // columns)
    if rows <= height:
        work(0, rows)
        return
    count = min(processors(), -(-rows // height))

    def share(number: int) -> None:
        for first in range(number * height, rows, count * height):
            work(first, min(first + height, rows))

    with ThreadPoolExecutor(count) as pool:
        for _ in pool.map(share, range(count)):
            pass


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def nearest(weights: Floats, scales: Floats, scheme: Scheme) -> Floats:
    """Codes, still as floats, nearest to ``weights / scales``; the two broadcast."""
    codes = np.rint(weights / scales)
    np.maximum(codes, np.float32(-scheme.half), out=codes)
    return np.asarray(np.minimum(codes, np.float32(scheme.half - 1), out=codes), dtype=np.float32)


def _best_scales(blocks: Floats, scheme: Scheme, importance: Floats | None) -> Floats:
    """blocks (rows, n, block_size) -> scales (rows, n, 1), never 0: a block of
    zeros gets :data:`ZERO_SCALE`.

    Searched in units of ``starts``, in which weights are at most half: sums of squares would
    overflow, or vanish, in their own.
    """
    peaks = np.take_along_axis(blocks, np.abs(blocks).argmax(-1, keepdims=True), -1)
    zeros = np.abs(peaks) < _ZERO
    starts = scale_like(np.where(zeros, ZERO_SCALE, peaks / np.float32(-scheme.half)))
    relative = np.asarray(blocks / starts, dtype=np.float32)
    best, gain = np.ones_like(starts), np.full_like(starts, -np.inf)
    for shrink in _SHRINK[scheme.bits]:
        codes = nearest(relative, np.asarray(shrink, dtype=np.float32), scheme)
        weighted = codes if importance is None else codes * importance
        along = np.einsum("rnb,rnb->rn", relative, weighted)[..., None]
        power = np.maximum(np.einsum("rnb,rnb->rn", codes, weighted), _ZERO)[..., None]
        # A scale s in the place of the start's leaves the squared error
        # sum(w w) - s (2 along - s power), the least at along / power.
        for scale in (np.ones_like(starts), scale_like(starts * (along / power)) / starts):
            found = scale * (2 * along - scale * power)
            better = (found > gain) & (scale != 0)
            best, gain = np.where(better, scale, best), np.where(better, found, gain)
    # beyond it the lowest code stands for no finite number
    limit = _LIMIT / np.float32(scheme.half)
    return scale_like(np.clip(starts * best, -limit, limit))


def scale_like(numbers: Floats) -> Floats:
    """The nearest numbers that scales can be: they are stored as bfloat16, whose 8 digits cost
    nothing, because codes are chosen under the scale that is stored.
    """
    return np.asarray(numbers.astype(ml_dtypes.bfloat16), dtype=np.float32)
