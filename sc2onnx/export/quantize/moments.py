"""What a text says of a product's inputs: second moments, in the original model and in ours."""

from __future__ import annotations

from functools import cached_property
from typing import Final

import numpy as np

from sc2onnx.export.quantize.codec import Floats

DAMPING: Final = 0.1
"""Added to H's diagonal, of its mean: directions that the text does not show must not be free."""

FLOOR: Final = 1e-4
"""Of the uncentred second moments, the least that damping is a share of: inputs that hardly vary
leave rounding errors for variances.
"""

_TILE: Final = 128
"""Rows of an outer product that are taken off at once."""


class Moments:
    """Second moments of a product's inputs in both models, gathered a few tokens at a time.

    ``centred``: means are taken out, because a bias makes up for them. Inputs are then summed up
    less the means of the first ones that come: of a channel whose mean is large, the difference of
    two large sums would be nothing but rounding errors.
    """

    def __init__(self, weight: Floats, centred: bool) -> None:
        out, columns = weight.shape
        self._weight, self._centred = weight, centred
        self._count, self._pairs = 0, 0
        # sum of x^ x^T, x^ ours
        self._square = np.zeros((columns, columns), dtype=np.float32)
        self._by_output = out < columns
        # sum of (original - ours) x^T
        self._cross = np.zeros((out if self._by_output else columns, columns), dtype=np.float32)
        # sum of what is owed x^T
        self._owed: Floats | None = None
        self._owed_total = np.zeros(out, dtype=np.float64)
        self._origin = np.zeros(columns, dtype=np.float32)
        # of ours less the origin; the same where there is an original; of original - ours
        self._ours, self._paired, self._missing = np.zeros((3, columns), dtype=np.float64)

    def add(self, original: Floats | None, ours: Floats, owed: Floats | None = None) -> None:
        """Inputs (tokens, in) of the same tokens in the original model, where it is computed, and
        in ours.

        ``owed`` (tokens, out): what ours lacks of the outputs beside, to be made up for.
        """
        if self._centred and not self._count:
            self._origin = ours.mean(axis=0, dtype=np.float64).astype(np.float32)
        moved = ours - self._origin
        self._count += len(ours)
        # not ones @ moved: OpenBLAS takes twice as long for a product that follows one by a vector
        total = moved.sum(axis=0)
        self._ours += total
        # a symmetric product, as numpy notices; threads of scipy's BLAS would go on waiting for the
        # next one beside numpy's, which then take twice as long
        self._square += moved.T @ moved
        if original is None:
            return
        if owed is not None:
            self._owe(owed, moved)
        missing = original - ours
        self._pairs += len(ours)
        self._paired += total
        self._missing += missing.sum(axis=0)
        self._cross += (missing @ self._weight.T if self._by_output else missing).T @ moved

    def _owe(self, owed: Floats, moved: Floats) -> None:
        if self._owed is None:
            self._owed = np.zeros(self._weight.shape, dtype=np.float32)
        self._owed_total += owed.sum(axis=0)
        self._owed += owed.T @ moved

    @property
    def means(self) -> tuple[Floats, Floats]:
        """Mean input (in,) of the original and of ours: what they differ by is the mean of
        those tokens that both have seen.
        """
        ours = self._origin + self._ours / self._count
        return (ours + self._missing / self._pairs).astype(np.float32), ours.astype(np.float32)

    def covariance(self) -> Floats:
        """H (in, in), damped. Gives the sums away."""
        square, self._square = self._square, np.zeros((0, 0), dtype=np.float32)
        square /= np.float32(self._count)
        moved = (self._ours / self._count).astype(np.float32)
        # Of the inputs as they came: E[x x] = E[(x - o) (x - o)] + o (2 E[x - o] + o).
        least = max(
            FLOOR
            * float(
                (
                    np.diag(square) + self._origin.astype(np.float64) * (2 * moved + self._origin)
                ).mean()
            ),
            1e-12,
        )
        if self._centred:
            _subtract_outer(square, moved, moved)
        square[np.diag_indices_from(square)] += np.float32(
            DAMPING * max(float(np.diag(square).mean()), least)
        )
        return square

    def shift(self, outputs: slice, towards: float) -> Floats:
        """What some outputs of ours lack, against our inputs: (outputs, in). ``towards``: how much
        counts of what they lack because our inputs are others than the original's.
        """
        lacking = (
            self._lacking[outputs] if self._by_output else self._weight[outputs] @ self._lacking
        )
        shift = np.asarray(lacking * np.float32(towards), dtype=np.float32)
        if self._owed is not None:
            owed = self._owed[outputs] / np.float32(self._pairs)
            if self._centred:
                mean = (self._owed_total[outputs] / self._pairs).astype(np.float32)
                _subtract_outer(owed, mean, self._paired_mean)
            shift += owed
        return shift

    @property
    def _paired_mean(self) -> Floats:
        """Mean input (in,) of ours less the origin, of the tokens that both models have seen."""
        return np.asarray(self._paired / self._pairs, dtype=np.float32)

    @cached_property
    def _lacking(self) -> Floats:
        """E[(original - ours) x^T] of inputs (in, in), or of outputs (out, in). Gives the sums
        away.
        """
        cross, self._cross = self._cross, np.zeros((0, 0), dtype=np.float32)
        cross /= np.float32(self._pairs)
        if self._centred:
            missing = (self._missing / self._pairs).astype(np.float32)
            missing = self._weight @ missing if self._by_output else missing
            _subtract_outer(cross, missing, self._paired_mean)
        return cross


def _subtract_outer(matrix: Floats, left: Floats, right: Floats) -> None:
    """In place, without a second matrix."""
    for first in range(0, len(matrix), _TILE):
        matrix[first : first + _TILE] -= np.outer(left[first : first + _TILE], right)
