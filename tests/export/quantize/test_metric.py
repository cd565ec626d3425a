"""What the model minds: the metric of a product's outputs, and roundings under it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sc2onnx.bundle.schemes import Scheme
from sc2onnx.export.quantize.codec import Floats, dequantise
from sc2onnx.export.quantize.metric import METRIC_DAMPING, WIDEST, kept_bytes, output_metric
from sc2onnx.export.quantize.moments import Moments
from sc2onnx.export.quantize.rounding import round_jointly
from sc2onnx.export.quantize.store import Store


def numbers(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def minded(outputs: int, seed: int = 0) -> Floats:
    """Gradients (300, outputs) of which a few directions say most."""
    few = numbers(300, 3, seed=seed) @ numbers(3, outputs, seed=seed + 1)
    return np.asarray(few + 0.1 * numbers(300, outputs, seed=seed + 2), dtype=np.float32)


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e12])
def test_a_metric_is_of_one_size_whatever_the_gradients(scale: float) -> None:
    gradients = minded(24)
    exact = gradients.astype(np.float64)
    expected = exact.T @ exact
    expected /= np.diag(expected).mean()
    expected += METRIC_DAMPING * np.eye(24)
    found = output_metric(gradients * np.float32(scale))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_without_gradients_every_output_counts_alike() -> None:
    found = output_metric(np.zeros((5, 8), dtype=np.float32))
    np.testing.assert_array_equal(found, METRIC_DAMPING * np.eye(8))


@pytest.mark.parametrize("outputs", [7, 96, 130])
def test_what_the_model_minds_gets_less(outputs: int) -> None:
    """Also of outputs that do not make equal parts."""
    weight, inputs = numbers(outputs, 64), numbers(500, 64, seed=1) @ numbers(64, 64, seed=2)
    metric = output_metric(minded(outputs, seed=3))
    centred = (inputs - inputs.mean(axis=0)).astype(np.float64)
    covariance = centred.T @ centred / len(centred)

    def lost(given: Floats | None) -> float:
        moments = Moments(weight, centred=True)
        moments.add(inputs, inputs)
        errors = dequantise(round_jointly(weight, moments, Scheme(4, 32), given)) - weight
        return float(np.einsum("os,oi,ij,sj->", metric, errors, covariance, errors, optimize=True))

    assert lost(metric) < 0.95 * lost(None)


def test_outputs_apart_are_rounded_as_without_a_metric() -> None:
    weight, inputs = numbers(40, 64), numbers(500, 64, seed=1)
    rounded = []
    for metric in (None, np.diag(np.linspace(1, 2, 40)).astype(np.float32)):
        moments = Moments(weight, centred=True)
        moments.add(inputs, inputs)
        rounded.append(round_jointly(weight, moments, Scheme(4, 32), metric))
    np.testing.assert_array_equal(rounded[0].codes, rounded[1].codes)


def test_gradients_are_kept_in_half_precision_of_the_largest(tmp_path: Path) -> None:
    store, gradients = Store(tmp_path), np.float32(1e-9) * minded(16)
    assert store.gradients("a.b") is None
    store.put_gradients("a.b", gradients)
    found = store.gradients("a.b")
    assert found is not None
    assert found.dtype == np.float16
    largest = np.abs(gradients).max()
    np.testing.assert_allclose(found.astype(np.float32) * largest, gradients, atol=1e-3 * largest)


def test_gradients_that_are_damaged_are_as_good_as_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put_gradients("a.b", minded(16))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert store.gradients("a.b") is None


def test_only_products_that_get_a_metric_count() -> None:
    assert kept_bytes([256, WIDEST, WIDEST + 1], 1000) == 2 * 1000 * (256 + WIDEST)
