"""Rounding a matrix so that its outputs, not its weights, change least.

With inputs x of covariance H, codes that differ from the weights by E change the outputs by
``tr(E H E^T)`` on average. Each weight's rounding error can be made up for by the weights of the
same output that are not rounded yet (GPTQ, Frantar et al. 2022; in the order and form of Babai's
nearest plane, Chen et al. 2025), and codes and scales can then be improved in turn.

What a later layer gets to see are the inputs of the rounded model, not those of the original: the
weights aim at the outputs that the original had on its own inputs (as in GPTAQ, Li et al. 2025),
most of the way, not all of it, since a small text would be learnt by heart.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.linalg import LinAlgError, cho_solve, cholesky
from scipy.linalg.blas import ssyrk

from sc2onnx.bundle.schemes import Scheme
from sc2onnx.export.quantize.codec import (
    ZERO_SCALE,
    Floats,
    Quantised,
    nearest,
    quantise,
    scale_like,
)

DAMPING: Final = 0.1
"""Added to H's diagonal, of its mean: directions that the text does not show must not be free."""

TOWARDS_ORIGINAL: Final = 0.7
"""How far the weights aim at the original's outputs; measured in
docs/decisions/0008-calibration.md.
"""

SWEEPS: Final = 3
"""Rounds of improving scales and codes after the first rounding."""

FLOOR: Final = 1e-4
"""Of the uncentred second moments, the least that damping is a share of: inputs that hardly vary
leave rounding errors for variances.
"""

GROWTH: Final = (0, 9, 90, 900, 9000)
"""Added to the damping, in its own units, until H is positive definite: 1, 10, ..
10,000 times as much in all.
"""

_NEVER: Final = np.float32(1e30)
"""A scale under which every code is 0: that of blocks that stay zeros."""

_BLOCK: Final = 128
"""Columns rounded before their errors are carried on by one matrix product."""


def constants() -> tuple[object, ...]:
    """What codes depend on beside the weights and the text."""
    return DAMPING, TOWARDS_ORIGINAL, SWEEPS, FLOOR, GROWTH


class Moments:
    """Second moments of a product's inputs in both models, gathered a few tokens at a time.

    ``centred``: means are taken out, because a bias makes up for them. Inputs are then summed up
    less the means of the first ones that come: of a channel whose mean is large, the difference of
    two large sums would be nothing but rounding errors.
    """

    def __init__(self, weight: Floats, centred: bool) -> None:
        out, columns = weight.shape
        self._weight, self._centred = weight, centred
        self._count = 0
        # lower triangle of sum(x^ x^T), x^ ours
        self._square = np.zeros((columns, columns), dtype=np.float32, order="F")
        self._by_output = out < columns
        # sum of (original - ours) x^T
        self._cross = np.zeros((out if self._by_output else columns, columns), dtype=np.float32)
        self._origin = np.zeros(columns, dtype=np.float32)
        self._ours, self._original = (
            np.zeros(columns, dtype=np.float64),
            np.zeros(columns, dtype=np.float64),
        )

    def add(self, original: Floats, ours: Floats) -> None:
        """Inputs (tokens, in) of the same tokens in the original model and in ours."""
        if self._centred and not self._count:
            self._origin = ours.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._count += len(ours)
        missing = original - ours
        self._original += original.sum(axis=0, dtype=np.float64)
        self._ours += ours.sum(axis=0, dtype=np.float64)
        ours = ours - self._origin
        self._square = ssyrk(1.0, ours.T, beta=1.0, c=self._square, lower=1, overwrite_c=1)
        self._cross += (missing @ self._weight.T if self._by_output else missing).T @ ours

    @property
    def means(self) -> tuple[Floats, Floats]:
        """Mean input (in,) of the original and of ours."""
        return (self._original / self._count).astype(np.float32), (self._ours / self._count).astype(
            np.float32
        )

    @property
    def _moved_mean(self) -> Floats:
        """Mean input (in,) of ours less the origin."""
        return np.asarray(self._ours / self._count - self._origin, dtype=np.float32)

    def covariance(self) -> Floats:
        """H (in, in), damped. Gives the sums away."""
        square, self._square = self._square, np.zeros((0, 0), dtype=np.float32)
        for first in range(0, len(square), _BLOCK):  # the upper triangle is still empty
            stop = first + _BLOCK
            square[first:stop, stop:] = square[stop:, first:stop].T
            corner = np.tril(square[first:stop, first:stop])
            square[first:stop, first:stop] = corner + np.tril(corner, -1).T
        square /= np.float32(self._count)
        moved = self._moved_mean
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

    def shift(self) -> Floats:
        """What the outputs of ours lack, against its inputs: (out, in). Gives the sums away."""
        cross, self._cross = self._cross, np.zeros((0, 0), dtype=np.float32)
        cross /= np.float32(self._count)
        if self._centred:
            missing = ((self._original - self._ours) / self._count).astype(np.float32)
            _subtract_outer(
                cross, self._weight @ missing if self._by_output else missing, self._moved_mean
            )
        return np.asarray(cross if self._by_output else self._weight @ cross, dtype=np.float32)


def round_jointly(weight: Floats, moments: Moments, scheme: Scheme) -> Quantised:
    """Codes and scales of a matrix (out, in) under the statistics of its inputs, which are used up.

    Blocks of zeros stay zeros: what was pruned makes up for no one's errors. Raises
    :class:`~numpy.linalg.LinAlgError` where these are not finite.
    """
    shift = moments.shift()
    covariance = moments.covariance()
    factor = factorised(covariance)
    shift *= np.float32(TOWARDS_ORIGINAL)
    target = np.ascontiguousarray(
        weight + cho_solve((factor, True), shift.T, overwrite_b=True, check_finite=False).T
    )
    del shift
    if not np.isfinite(target).all():
        raise LinAlgError("the inputs of the product are not finite")
    zeros = quantise(weight, scheme).zeros
    target.reshape(*zeros.shape, scheme.block_size)[zeros] = 0
    start = quantise(target, scheme, np.diag(covariance).copy())
    scales = np.ascontiguousarray(np.where(zeros, _NEVER, start.scales).T)
    turned = np.ascontiguousarray(target.T)
    del target, start  # before the state takes as much again
    state = RoundingState(turned, scales, scheme)
    round_in_turn(state, factor)
    del factor
    for _ in range(SWEEPS):
        coordinate_descent(state, covariance)
    codes = np.ascontiguousarray(state.codes.T).astype(np.int8)
    return Quantised(
        codes, np.ascontiguousarray(np.where(zeros, ZERO_SCALE, state.scales.T)), scheme
    )


def factorised(covariance: Floats) -> Floats:
    """The lower triangular factor of H, which is damped more, in place, where float32 lost
    its positive eigenvalues.
    """
    damping = np.float32(DAMPING * np.diag(covariance).mean())
    for growth in GROWTH:
        covariance[np.diag_indices_from(covariance)] += np.float32(growth) * damping
        try:
            return np.asarray(
                cholesky(covariance, lower=True, check_finite=False), dtype=np.float32
            )
        except LinAlgError:
            continue
    raise LinAlgError(
        "the covariance of the inputs is not positive definite, even with "
        f"{sum(GROWTH) + 1} times the damping"
    )


class RoundingState:
    """A rounding in the making, columns first so that one input's weights lie together.

    ``target``, ``codes`` (still floats) and ``errors``, target - codes * scales: (in, out);
    ``scales``: (in / block_size, out).
    """

    def __init__(self, target: Floats, scales: Floats, scheme: Scheme) -> None:
        self.target, self.scales, self.scheme = target, scales, scheme
        self.codes, self.errors = np.empty_like(target), np.empty_like(target)

    def round(self, column: int, wanted: Floats) -> Floats:
        """Take the codes nearest to ``wanted`` (out,) for a column; its errors (out,)."""
        scale = self.scales[column // self.scheme.block_size]
        self.codes[column] = codes = nearest(wanted, scale, self.scheme)
        errors = np.asarray(self.target[column] - codes * scale, dtype=np.float32)
        self.errors[column] = errors
        return errors


def round_in_turn(state: RoundingState, factor: Floats) -> None:
    """From the last column to the first, each aiming to make up for the errors of those after it.
    H = factor factor^T, lower.

    The objective is the sum over columns j of ``(sum_i>=j e_i factor_ij)^2``: given the later
    errors, column j is best at ``e_j = -sum_i>j e_i factor_ij / factor_jj``.
    """
    for stop in range(len(factor), 0, -_BLOCK):
        first = max(0, stop - _BLOCK)
        steps = factor[first:, first:stop] / np.diag(factor)[first:stop]  # (in - first, block)
        wanted = state.target[first:stop] + steps[stop - first :].T @ state.errors[stop:]
        for column in range(stop - 1, first - 1, -1):
            j = column - first
            errors = state.round(column, wanted[j])
            wanted[:j] += steps[j, :j, None] * errors


def coordinate_descent(state: RoundingState, covariance: Floats) -> None:
    """One round of coordinate descent on ``tr(E H E^T)``: each block's scales, then its
    codes, given all the rest.
    """
    size = state.scheme.block_size
    for block in range(len(state.scales)):
        columns = slice(block * size, (block + 1) * size)
        inner = np.ascontiguousarray(covariance[columns, columns])
        # (block_size, out)
        gradient = np.asarray(covariance[:, columns].T @ state.errors, dtype=np.float32)
        improve_scales(state, block, columns, inner, gradient)
        for j, column in enumerate(range(columns.start, columns.stop)):
            before = state.errors[column].copy()
            # The error at which the gradient would be 0, and with it the weight to aim at.
            change = (
                state.round(column, state.target[column] - before + gradient[j] / inner[j, j])
                - before
            )
            if change.any():
                gradient[j + 1 :] += inner[j, j + 1 :, None] * change


def improve_scales(
    state: RoundingState, block: int, columns: slice, inner: Floats, gradient: Floats
) -> None:
    """The best scale of each output for its codes: moves scales, errors and gradient together."""
    codes = state.codes[columns]
    bend = inner @ codes
    power = np.einsum("bo,bo->o", bend, codes)
    step = np.einsum("bo,bo->o", gradient, codes) / np.where(power > 0, power, 1)
    scales = state.scales[block]
    moved = scale_like(scales + step)
    moved = np.where((power > 0) & (moved != 0), moved, scales)
    step, state.scales[block] = moved - scales, moved
    state.errors[columns] -= codes * step
    gradient -= bend * step


def _subtract_outer(matrix: Floats, left: Floats, right: Floats) -> None:
    """In place, without a second matrix."""
    for first in range(0, len(matrix), _BLOCK):
        matrix[first : first + _BLOCK] -= np.outer(left[first : first + _BLOCK], right)
