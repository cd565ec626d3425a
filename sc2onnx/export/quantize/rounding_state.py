"""A matrix in the making: codes and scales that improve, columns that are rounded one by one."""

from __future__ import annotations

from typing import Final

import numpy as np

from sc2onnx.bundle.schemes import Scheme
from sc2onnx.export.quantize import native
from sc2onnx.export.quantize.codec import Floats
from sc2onnx.export.quantize.native import Native

_FEW: Final = 16
"""Columns that are rounded one by one before the others get to know: of one block of any scheme."""

_OUTPUTS: Final = 2048
"""Outputs rounded at once: what ``_FEW`` columns of them take stays in a core's cache."""


class RoundingState:
    """A rounding in the making, columns first so that one input's weights lie together.

    ``target``, ``codes`` (still floats) and ``errors``, target - codes * scales: (in, out);
    ``scales``: (in / block_size, out). Before the first rounding, errors are zeros.
    """

    def __init__(self, target: Floats, scales: Floats, scheme: Scheme) -> None:
        self.target, self.scales, self.scheme = target, scales, scheme
        self.codes, self.errors = np.zeros_like(target), np.zeros_like(target)

    @property
    def kernels(self) -> Native | None:
        """Our kernels, if they are installed; they compute in float32."""
        return native.look() if self.target.dtype == np.float32 else None

    @property
    def limits(self) -> tuple[float, float]:
        """The lowest code and the highest."""
        return float(-self.scheme.half), float(self.scheme.half - 1)

    def part(self, outputs: slice, pull: Floats) -> RoundingState:
        """Some outputs, by themselves, whose targets are moved by ``pull`` (in, outputs)."""
        target, scales = self.target[:, outputs] + pull, self.scales[:, outputs].copy()
        part = RoundingState(target, scales, self.scheme)
        part.codes, part.errors = self.codes[:, outputs].copy(), self.errors[:, outputs] + pull
        return part

    def settle(self, columns: slice, wanted: Floats, steps: Floats) -> None:
        """Take the codes nearest to ``wanted`` (columns, out), from the last column to the first.

        ``steps`` (columns, columns): what a change of one column's error adds to the wanted weights
        of those before it. Outputs have nothing to do with each other, so a few are rounded
        at once, whose weights stay in the cache.
        """
        outputs = self.target.shape[1]
        for first in range(0, outputs, _OUTPUTS):
            _settle(self, columns, wanted, steps, slice(first, first + _OUTPUTS))


def _settle(
    state: RoundingState, columns: slice, wanted: Floats, steps: Floats, outputs: slice
) -> None:
    """One part of the outputs. A few columns at a time; what these change, the others get to
    know by a matrix product.
    """
    target, codes, errors = (
        array[columns, outputs] for array in (state.target, state.codes, state.errors)
    )
    wanted = wanted[:, outputs]
    changes = np.empty(target.shape, dtype=target.dtype)
    settle = _settle_few if state.kernels is None else state.kernels.settle
    for stop in range(len(target), 0, -_FEW):
        few = slice(max(0, stop - _FEW), stop)
        aims = wanted[few] + steps[stop:, few].T @ changes[stop:]
        scales = state.scales[(columns.start + few.start) // state.scheme.block_size, outputs]
        rows = target[few], codes[few], errors[few]
        settle(aims, rows, changes[few], scales, steps[few, few], state.limits)


def _settle_few(
    aims: Floats,
    rows: tuple[Floats, Floats, Floats],
    changes: Floats,
    scales: Floats,
    steps: Floats,
    limits: tuple[float, float],
) -> None:
    """:meth:`sc2onnx.export.quantize.native.Native.settle`, to the bit, in numpy."""
    lowest, highest = map(aims.dtype.type, limits)
    for j, target, code, error, change in reversed(
        list(zip(range(len(aims)), *rows, changes, strict=True))
    ):
        aim = aims[j]
        np.divide(aim, scales, out=code)
        np.rint(code, out=code)
        np.maximum(code, lowest, out=code)
        np.minimum(code, highest, out=code)
        np.multiply(code, scales, out=aim)
        np.subtract(target, aim, out=aim)
        np.subtract(aim, error, out=change)
        error[:] = aim
        if j:
            aims[:j] += steps[j, :j, None] * change
