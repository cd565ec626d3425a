"""Joint rounding against the textbook in float64, and what it must never do: leave the range, lose
to the nearest, stumble over odd inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sc2onnx.bundle.schemes import BITS, BLOCK_SIZES, Scheme
from sc2onnx.export.quantize import rounding
from sc2onnx.export.quantize.codec import Floats, Quantised, dequantise, quantise
from sc2onnx.export.quantize.moments import DAMPING, Moments
from sc2onnx.export.quantize.rounding import TOWARDS_ORIGINAL, round_jointly
from sc2onnx.export.quantize.rounding_state import RoundingState

Doubles = npt.NDArray[np.float64]

SCHEME = Scheme(4, 32)


def numbers(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def related(tokens: int, columns: int, seed: int = 0) -> Floats:
    """Inputs (tokens, columns) of which a few directions say most, with means that are not 0."""
    few = numbers(tokens, max(1, columns // 4), seed=seed) @ numbers(
        max(1, columns // 4), columns, seed=seed + 1
    )
    return np.asarray(
        few + 0.3 * numbers(tokens, columns, seed=seed + 2) + 0.5 * numbers(columns, seed=seed + 3),
        dtype=np.float32,
    )


def moments(
    weight: Floats, original: Floats, ours: Floats | None = None, centred: bool = True
) -> Moments:
    gathered = Moments(weight, centred)
    gathered.add(original, original if ours is None else ours)
    return gathered


def damped(ours: Floats, centred: bool) -> Doubles:
    x = ours.astype(np.float64)
    if centred:
        x = x - x.mean(axis=0)
    covariance = x.T @ x / len(x)
    return np.asarray(covariance + DAMPING * np.diag(covariance).mean() * np.eye(len(covariance)))


def lost(errors: npt.NDArray[Any], covariance: npt.NDArray[Any]) -> float:
    """tr(E H E^T), errors (out, in)."""
    exact = errors.astype(np.float64)
    return float(np.einsum("oi,ij,oj->", exact, covariance.astype(np.float64), exact))


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(
    "out", [24, 200, 330], ids=["fewer outputs", "as many outputs", "more outputs"]
)
def test_moments(out: int, centred: bool) -> None:
    """Sizes that are no multiples of the tiles in which triangles are copied."""
    weight, original = numbers(out, 200), related(500, 200)
    ours = original + 0.1 * numbers(500, 200, seed=9)
    gathered = moments(weight, original, ours, centred)
    for found, x in zip(gathered.means, (original, ours), strict=True):
        np.testing.assert_allclose(found, x.mean(axis=0, dtype=np.float64), atol=1e-6)
    missing, seen = (original - ours).astype(np.float64), ours.astype(np.float64)
    if centred:
        missing, seen = missing - missing.mean(axis=0), seen - seen.mean(axis=0)
    expected = weight.astype(np.float64) @ missing.T @ seen / len(seen)
    np.testing.assert_allclose(
        gathered.shift(slice(None), 1), expected, atol=1e-5 * np.abs(expected).max()
    )
    covariance = gathered.covariance()
    np.testing.assert_array_equal(covariance, covariance.T)
    np.testing.assert_allclose(
        covariance, damped(ours, centred), atol=1e-5 * np.abs(covariance).max()
    )


@pytest.mark.parametrize("out", [16, 80])
def test_moments_do_not_depend_on_how_many_tokens_come_at_once(out: int) -> None:
    weight, original, ours = numbers(out, 48), related(600, 48), related(600, 48, seed=5)
    whole, parts = moments(weight, original, ours), Moments(weight, centred=True)
    for first in range(0, 600, 7):
        parts.add(original[first : first + 7], ours[first : first + 7])
    np.testing.assert_allclose(
        parts.shift(slice(None), 1), whole.shift(slice(None), 1), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(parts.covariance(), whole.covariance(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("out", [24, 80])
def test_tokens_that_the_original_does_not_see(out: int, centred: bool) -> None:
    """They count for the covariance and the means of ours; and what is owed to the outputs is
    made up for whole, whatever counts of the difference of the inputs.
    """
    weight, original = numbers(out, 48), related(600, 48)
    ours = original + np.float32(0.1) * numbers(600, 48, seed=9) + np.float32(0.2)
    owed = numbers(400, out, seed=3) + original[:400, :1]
    gathered = Moments(weight, centred)
    gathered.add(original[:300], ours[:300], owed[:300])
    gathered.add(None, ours[400:])
    gathered.add(original[300:400], ours[300:400], owed[300:])
    gathered.add(None, ours[:0])
    missing, seen = (original - ours).astype(np.float64)[:400], ours.astype(np.float64)[:400]
    expected_means = ours.mean(axis=0) + missing.mean(axis=0), ours.mean(axis=0)
    for found, expected in zip(gathered.means, expected_means, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    lacking = owed.astype(np.float64)
    if centred:
        missing, seen = missing - missing.mean(axis=0), seen - seen.mean(axis=0)
        lacking = lacking - lacking.mean(axis=0)
    shift = (0.7 * weight.astype(np.float64) @ missing.T + lacking.T) @ seen / 400
    for outputs in (slice(None), slice(3, 11)):
        np.testing.assert_allclose(gathered.shift(outputs, 0.7), shift[outputs], atol=1e-4)
    np.testing.assert_allclose(gathered.covariance(), damped(ours, centred), atol=1e-4)


@pytest.mark.parametrize("out", [64, 600], ids=["fewer outputs", "more outputs"])
def test_means_that_are_large_cost_no_precision(out: int) -> None:
    """Four channels of 512 with a mean of 1000 and a variance of 1, in batches: sums of squares are
    a million times the variance.
    """
    weight, inputs = numbers(out, 512), numbers(8192, 512, seed=4)
    inputs[:, [3, 100, 101, 400]] += 1000
    ours = inputs + np.float32(0.1) * numbers(8192, 512, seed=5)
    gathered = Moments(weight, centred=True)
    for first in range(0, 8192, 2048):
        gathered.add(inputs[first : first + 2048], ours[first : first + 2048])
    for found, x in zip(gathered.means, (inputs, ours), strict=True):
        np.testing.assert_allclose(found, x.mean(axis=0, dtype=np.float64), rtol=1e-6, atol=1e-6)
    missing, seen = (
        (x - x.mean(axis=0)).astype(np.float64)
        for x in ((inputs - ours).astype(np.float64), ours.astype(np.float64))
    )
    expected = weight.astype(np.float64) @ missing.T @ seen / len(seen)
    np.testing.assert_allclose(
        gathered.shift(slice(None), 1), expected, atol=1e-4 * np.abs(expected).max()
    )
    np.testing.assert_allclose(gathered.covariance(), damped(ours, centred=True), atol=1e-4)


def in_turn(target: Doubles, scales: Doubles, covariance: Doubles, scheme: Scheme) -> Doubles:
    """Codes (out, in), the last first, each the best if those before it could still be any real
    number: no factor, but Schur complements.
    """
    codes, errors = np.zeros_like(target), np.zeros_like(target)
    for j in range(target.shape[1] - 1, -1, -1):
        free, fixed = slice(0, j), slice(j, None)
        left = covariance[fixed, fixed] - covariance[fixed, free] @ np.linalg.solve(
            covariance[free, free], covariance[free, fixed]
        )
        wanted = target[:, j] + errors[:, j + 1 :] @ left[1:, 0] / left[0, 0]
        scale = scales[:, j // scheme.block_size]
        codes[:, j] = np.clip(np.rint(wanted / scale), -scheme.half, scheme.half - 1)
        errors[:, j] = target[:, j] - codes[:, j] * scale
    return codes


@pytest.mark.parametrize(
    ("scheme", "columns"),
    [(Scheme(4, 32), 288), (Scheme(8, 16), 144), (Scheme(4, 16), 16)],
    ids=str,
)
def test_rounding_in_turn_is_that_of_the_textbook(scheme: Scheme, columns: int) -> None:
    """In float64, more columns than are rounded before their errors are carried on."""
    covariance = damped(related(400, columns), centred=True)
    weight = numbers(20, columns)
    scales = quantise(weight, scheme).scales.astype(np.float64)
    state = RoundingState(
        weight.T.astype(np.float64),
        scales.T.copy(),  # type: ignore[arg-type]
        scheme,
    )
    rounding.round_in_turn(state, np.linalg.cholesky(covariance))
    np.testing.assert_array_equal(
        state.codes.T, in_turn(weight.astype(np.float64), scales, covariance, scheme)
    )


@pytest.mark.parametrize("scheme", [Scheme(4, 32), Scheme(4, 128), Scheme(8, 64)], ids=str)
def test_less_is_lost_than_to_the_nearest_and_no_sweep_loses_more(scheme: Scheme) -> None:
    weight, inputs = numbers(48, 256), related(300, 256)
    covariance = moments(weight, inputs).covariance()
    start = quantise(weight, scheme, np.diag(covariance).copy())
    nearest = lost(weight - dequantise(quantise(weight, scheme)), covariance)
    state = RoundingState(
        np.ascontiguousarray(weight.T), np.ascontiguousarray(start.scales.T), scheme
    )
    rounding.round_in_turn(state, rounding.factorised(covariance))
    found = [lost(state.errors.T, covariance)]
    for _ in range(6):
        rounding.coordinate_descent(state, covariance)
        found.append(lost(state.errors.T, covariance))
        np.testing.assert_allclose(
            state.errors,
            state.target - state.codes * np.repeat(state.scales, scheme.block_size, axis=0),
            atol=1e-5,
        )
    assert found[0] < 0.8 * nearest
    assert found[1] < 0.99 * found[0]
    assert all(after <= before * (1 + 1e-5) for before, after in pairwise(found))
    done = round_jointly(weight, moments(weight, inputs), scheme)
    assert lost(weight - dequantise(done), covariance) == pytest.approx(
        found[rounding.SWEEPS], rel=1e-4
    )


def test_each_scale_is_the_best_for_its_codes() -> None:
    weight, inputs = numbers(8, 64), related(200, 64)
    covariance = moments(weight, inputs).covariance()
    start = quantise(weight, SCHEME)
    state = RoundingState(
        np.ascontiguousarray(weight.T), np.ascontiguousarray(start.scales.T), SCHEME
    )
    rounding.round_in_turn(state, rounding.factorised(covariance))
    columns = slice(32, 64)
    gradient = covariance[:, columns].T @ state.errors
    rounding.improve_scales(state, 1, columns, covariance[columns, columns], gradient)
    np.testing.assert_allclose(gradient, covariance[:, columns].T @ state.errors, atol=1e-4)
    best = lost(state.errors.T, covariance)
    for factor in (0.98, 1.02):
        errors = state.errors.copy()
        errors[columns] = state.target[columns] - state.codes[columns] * (
            state.scales[1] * np.float32(factor)
        )
        assert lost(errors.T, covariance) > best


def test_weights_aim_at_the_outputs_of_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours sees what the original sees, turned and stretched: at 8 bits, hardly damped, what is
    left of the difference is what was aimed at.
    """
    monkeypatch.setattr("sc2onnx.export.quantize.moments.DAMPING", 0.001)
    weight, ours = numbers(40, 64), related(2000, 64)
    original = ours @ (np.eye(64, dtype=np.float32) + 0.05 * numbers(64, 64, seed=7))
    found = dequantise(round_jointly(weight, moments(weight, original, ours), Scheme(8, 32)))

    def off(weights: Floats) -> float:
        difference = (original @ weight.T - ours @ weights.T).astype(np.float64)
        return float(((difference - difference.mean(axis=0)) ** 2).mean())

    assert off(found) == pytest.approx((1 - TOWARDS_ORIGINAL) ** 2 * off(weight), rel=0.1)


def assert_sound(found: Quantised, weight: Floats) -> None:
    scheme = found.scheme
    assert found.codes.dtype == np.int8
    assert found.codes.shape == weight.shape
    assert found.scales.shape == (len(weight), weight.shape[1] // scheme.block_size)
    assert found.codes.min() >= -scheme.half
    assert found.codes.max() <= scheme.half - 1
    assert np.isfinite(found.scales).all()
    assert (found.scales != 0).all()


ODD: dict[str, Callable[[Floats], object]] = {
    "fewer tokens than inputs": lambda x: None,
    "dead inputs": lambda x: x[:, ::3].fill(0),
    "a dead block": lambda x: x[:, :256].fill(0),
    "all dead": lambda x: x.fill(0),
    "constant inputs": lambda x: x[:, 10:40].fill(0.7),
    "all the same constant": lambda x: x.fill(1000.1),
    "one huge input": lambda x: x[:, 5].fill(3e4),
    "the same input twice": lambda x: np.copyto(x[:, 1::2], x[:, ::2]),
    "tiny": lambda x: np.multiply(x, 1e-15, out=x),
}


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("name", ODD)
def test_odd_inputs(name: str, centred: bool) -> None:
    weight, inputs = numbers(24, 512), related(40, 512)
    ODD[name](inputs)
    scheme = Scheme(4, 128)
    found = round_jointly(weight, moments(weight, inputs, centred=centred), scheme)
    assert_sound(found, weight)
    # Wherever nothing is known of the inputs, weights are still as they were,
    # to the step of their block.
    assert (
        np.abs(dequantise(found) - weight).max()
        < 16 * np.abs(quantise(weight, scheme).scales).max()
    )


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_every_scheme_is_sound_and_better_than_the_nearest(bits: int, block_size: int) -> None:
    scheme, weight, inputs = Scheme(bits, block_size), numbers(24, 512), related(100, 512)
    weight[3] = 0
    weight[:, 256:] *= 1e-3
    found = round_jointly(weight, moments(weight, inputs), scheme)
    assert_sound(found, weight)
    covariance = damped(inputs, centred=True)
    assert lost(weight - dequantise(found), covariance) < 0.7 * lost(
        weight - dequantise(quantise(weight, scheme)), covariance
    )


def test_the_same_twice() -> None:
    weight, inputs = numbers(200, 512), related(700, 512)
    first, second = (round_jointly(weight, moments(weight, inputs), SCHEME) for _ in range(2))
    np.testing.assert_array_equal(first.codes, second.codes)
    np.testing.assert_array_equal(first.scales, second.scales)


@pytest.mark.parametrize(("least", "grows"), [(0.5, False), (-0.05, True), (-0.5, True)])
def test_damping_grows_until_there_is_a_factor(
    least: float, grows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An eigenvalue that rounding errors made negative."""
    monkeypatch.setattr(rounding, "DAMPING", 0.03)
    turned = np.linalg.qr(numbers(64, 64))[0].astype(np.float64)
    values = np.ones(64)
    values[0] = least
    covariance = np.asfortranarray((turned * values @ turned.T).astype(np.float32))
    before = covariance.copy()
    factor = rounding.factorised(covariance)
    np.testing.assert_allclose(factor @ factor.T, covariance, atol=1e-5)
    assert (covariance != before).any() == grows
    np.testing.assert_allclose(
        covariance - before, np.eye(64) * (covariance - before)[0, 0], atol=1e-5
    )
    assert np.diag(covariance - before).max() < 10 * abs(least) + 1e-3


def test_no_damping_helps() -> None:
    with pytest.raises(
        np.linalg.LinAlgError, match="not positive definite, even with 10000 times the damping"
    ):
        rounding.factorised(np.array([[1, 1e5], [1e5, 1]], dtype=np.float32, order="F"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("stream", [0, 1])
def test_inputs_that_are_not_finite_are_noticed(value: float, stream: int) -> None:
    weight, pair = numbers(24, 64), (related(100, 64), related(100, 64))
    pair[stream][7, 5] = value
    with np.errstate(invalid="ignore", over="ignore"), pytest.raises(np.linalg.LinAlgError):
        round_jointly(weight, moments(weight, *pair), SCHEME)
