"""Rounding a matrix so that its outputs, not its weights, change least.

With inputs x of covariance H, codes that differ from the weights by E change the outputs by
``tr(E H E^T)`` on average. Each weight's rounding error can be made up for by the weights of the
same output that are not rounded yet (GPTQ, Frantar et al. 2022; in the order and form of Babai's
nearest plane, Chen et al. 2025), and codes and scales can then be improved in turn.

What a later layer gets to see are the inputs of the rounded model, not those of the original: the
weights aim at the outputs that the original had on its own inputs (as in GPTAQ, Li et al. 2025),
most of the way, not all of it, since a small text would be learnt by heart.

Where it is known which errors of the outputs the model minds
(:mod:`sc2onnx.export.quantize.metric`), these also make up for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError, cho_solve, cholesky

from sc2onnx.bundle.schemes import Scheme
from sc2onnx.export.quantize.codec import (
    ZERO_SCALE,
    Floats,
    Quantised,
    quantise,
    scale_like,
    zero_blocks,
)
from sc2onnx.export.quantize.metric import METRIC_DAMPING
from sc2onnx.export.quantize.moments import DAMPING, FLOOR, Moments
from sc2onnx.export.quantize.rounding_state import RoundingState

TOWARDS_ORIGINAL: Final = 0.7
"""How far the weights aim at the original's outputs; measured in
docs/decisions/0008-calibration.md.
"""

SWEEPS: Final = 4
"""Rounds of improving scales and codes after the first rounding."""

GROWTH: Final = (0, 9, 90, 900, 9000)
"""Added to the damping, in its own units, until H is positive definite: 1, 10, ..
10,000 times as much in all.
"""

Share = tuple[slice, Floats]
"""Some outputs, and how much of the errors of all of them they make up for: (out, some)."""

GROUPS: Final = 32
"""Parts of a product's outputs that make up for each other's errors in turn."""

_TOGETHER: Final = 128
"""Outputs that two threads of our kernels take at once: larger parts are multiples of it."""

_NEVER: Final = np.float32(1e30)
"""A scale under which every code is 0: that of blocks that stay zeros."""

_BLOCK: Final = 128
"""Columns rounded before their errors are carried on by one matrix product."""

_WIDEST: Final = 4096
"""Outputs rounded before the next: a few copies of their weights are the temporary memory."""


def constants() -> tuple[object, ...]:
    """What codes depend on beside the weights and the text."""
    return DAMPING, TOWARDS_ORIGINAL, SWEEPS, FLOOR, GROWTH, METRIC_DAMPING, GROUPS, _TOGETHER


def round_jointly(
    weight: Floats, moments: Moments, scheme: Scheme, metric: Floats | None = None
) -> Quantised:
    """Codes and scales of a matrix (out, in) under the statistics of its inputs, which are used up.
    ``metric`` (out, out): which errors of the outputs matter; None: all alike.

    Blocks of zeros stay zeros: what was pruned makes up for no one's errors. Raises
    :class:`~numpy.linalg.LinAlgError` where these are not finite.
    """
    covariance = moments.covariance()
    factor = factorised(covariance)
    parts = list[Quantised]()
    for first in range(0, len(weight), _WIDEST):
        here = slice(first, first + _WIDEST)
        moved = moments.shift(here, TOWARDS_ORIGINAL)
        moved = cho_solve((factor, True), moved.T, overwrite_b=True, check_finite=False).T
        target = np.ascontiguousarray(weight[here] + moved)
        del moved  # as large as what is rounded
        matters = None if metric is None else metric[here, here]
        zeros = zero_blocks(weight[here], scheme)
        parts.append(_round_outputs(target, zeros, scheme, (covariance, factor), matters))
    codes = np.concatenate([part.codes for part in parts])
    return Quantised(codes, np.concatenate([part.scales for part in parts]), scheme)


def _round_outputs(
    target: Floats,
    zeros: npt.NDArray[np.bool_],
    scheme: Scheme,
    inputs: tuple[Floats, Floats],
    metric: Floats | None,
) -> Quantised:
    """Some outputs, none of which has to do with the rest. ``target``: the weights to aim at;
    ``zeros``: blocks of them that stay zeros; ``inputs``: H and its factor.
    """
    covariance, factor = inputs
    if not np.isfinite(target).all():
        raise LinAlgError("the inputs of the product are not finite")
    target.reshape(*zeros.shape, scheme.block_size)[zeros] = 0
    start = quantise(target, scheme, np.diag(covariance).copy())
    scales = np.ascontiguousarray(np.where(zeros, _NEVER, start.scales).T)
    state = RoundingState(np.ascontiguousarray(target.T), scales, scheme)
    round_in_turn(state, factor)
    shares = None if metric is None else list(shares_of(metric))
    for _ in range(SWEEPS):
        if shares is None:
            coordinate_descent(state, covariance)
        else:
            descend_in_turn(state, covariance, shares)
    codes = np.ascontiguousarray(state.codes.astype(np.int8).T)
    scales = np.ascontiguousarray(np.where(zeros, ZERO_SCALE, state.scales.T))
    return Quantised(codes, scales, scheme)


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


def round_in_turn(state: RoundingState, factor: Floats) -> None:
    """From the last column to the first, each aiming to make up for the errors of those after it.
    H = factor factor^T, lower.

    The objective is the sum over columns j of ``(sum_i>=j e_i factor_ij)^2``: given the later
    errors, column j is best at ``e_j = -sum_i>j e_i factor_ij / factor_jj``.
    """
    for stop in range(len(factor), 0, -_BLOCK):
        first = max(0, stop - _BLOCK)
        steps = factor[first:, first:stop] / np.diag(factor)[first:stop]  # (in - first, block)
        after = steps[stop - first :].T @ state.errors[stop:]
        wanted = np.asarray(state.target[first:stop] + after, dtype=np.float32)
        state.settle(slice(first, stop), wanted, steps[: stop - first])


def coordinate_descent(state: RoundingState, covariance: Floats) -> None:
    """One round of coordinate descent on ``tr(E H E^T)``: each block's scales, then its
    codes, given all the rest.
    """
    if (kernels := state.kernels) is not None:
        rows = state.target, state.codes, state.errors
        kernels.descend(rows, state.scales, covariance, state.limits)
        return
    size = state.scheme.block_size
    for block in range(len(state.scales) - 1, -1, -1):
        columns = slice(block * size, (block + 1) * size)
        inner = np.ascontiguousarray(covariance[columns, columns])
        # (block_size, out)
        gradient = np.asarray(covariance[:, columns].T @ state.errors, dtype=np.float32)
        improve_scales(state, block, columns, inner, gradient)
        # The error at which the gradient would be 0, and with it the weight to aim at.
        diagonal = np.diag(inner)
        gradient /= diagonal[:, None]
        gradient += state.target[columns]
        gradient -= state.errors[columns]
        state.settle(columns, gradient, np.asarray(inner / diagonal, dtype=np.float32))


def shares_of(metric: Floats) -> Iterator[Share]:
    """The parts of the outputs that make up for each other in turn, and for how much.

    Given the errors E_o of all others, outputs a are best off with errors of ``-E_o G_oa G_aa^-1``
    (each of them a column): so that much is added to what they aim at. Among each other they make
    up for nothing; each on its own would make up for the others' errors once more.
    """
    outputs = len(metric)
    size = -(-outputs // GROUPS)
    if size > _TOGETHER // 2:
        size = -(-size // _TOGETHER) * _TOGETHER
    for first in range(0, outputs, size):
        here = slice(first, min(first + size, outputs))
        # numpy's solver: threads of scipy's would wait beside those of what comes next
        share = np.linalg.solve(metric[here, here], metric[here]).T
        yield here, np.ascontiguousarray(share, dtype=np.float32)


def descend_in_turn(state: RoundingState, covariance: Floats, shares: Iterable[Share]) -> None:
    """One round of coordinate descent on ``tr(G E H E^T)``, some outputs after the others."""
    for here, share in shares:
        if state.kernels is not None:
            rows = state.target, state.codes, state.errors
            state.kernels.descend(rows, state.scales, covariance, state.limits, (here, share))
            continue
        # of these outputs themselves the share is all
        pull = np.asarray(state.errors @ share - state.errors[:, here], dtype=np.float32)
        part = state.part(here, pull)
        coordinate_descent(part, covariance)
        state.codes[:, here], state.scales[:, here] = part.codes, part.scales
        state.errors[:, here] = part.errors - pull


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
