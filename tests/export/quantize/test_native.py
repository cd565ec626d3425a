"""What the kernels compute of a calibration, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from sc2onnx.bundle.kernels import VARIABLE
from sc2onnx.bundle.schemes import BITS, BLOCK_SIZES, Scheme
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.quantize import native
from sc2onnx.export.quantize.codec import Floats, dequantise, quantise
from sc2onnx.export.quantize.forward import Affine, gelu
from sc2onnx.export.quantize.metric import output_metric
from sc2onnx.export.quantize.moments import Moments
from sc2onnx.export.quantize.native import IntegerProduct
from sc2onnx.export.quantize.products import activated, product_of
from sc2onnx.export.quantize.rounding import round_in_turn, round_jointly
from sc2onnx.export.quantize.rounding_state import RoundingState
from sc2onnx.export.shapes import SHAPES

with_kernels = pytest.mark.skipif(native.look() is None, reason="sc2onnx-kernels is not installed")


def numbers(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def rounded_activations(x: Floats, block: int) -> Floats:
    """As the kernels take them: int8 with a scale for each block."""
    blocks = x.reshape(len(x), -1, block)
    scales = np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(127)
    return np.asarray((np.rint(blocks / scales) * scales).reshape(x.shape), dtype=np.float32)


@with_kernels
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("block", BLOCK_SIZES)
def test_a_product(bits: int, block: int) -> None:
    quantised = quantise(numbers(40, 512), Scheme(bits, block))
    bias, x = numbers(40, seed=1), numbers(3, 100, 512, seed=2)
    product = product_of(quantised, bias)
    assert isinstance(product, IntegerProduct)
    seen = rounded_activations(x.reshape(-1, 512), block).reshape(x.shape)
    expected = Affine(dequantise(quantised), bias)(seen)
    # a number that lies between two codes may go either way
    off = np.sqrt(np.mean((product(x) - expected) ** 2, axis=-1)) / expected.std()
    assert np.median(off) < 1e-6
    assert off.max() < 2e-3
    np.testing.assert_array_equal(product.part(slice(16, 32))(x), product(x)[..., 16:32])


@with_kernels
@pytest.mark.parametrize("name", ["gelu_pytorch_tanh", "gelu"])
def test_an_activation(name: str) -> None:
    """By the kernels where they have it."""
    config = Starcoder2Config.from_dict({**SHAPES["3b"], "hidden_act": name})
    product, x = product_of(quantise(numbers(32, 64), Scheme(8, 32)), None), numbers(50, 64, seed=1)
    np.testing.assert_allclose(
        activated(product, config)(x), gelu(product(x), config), rtol=1e-5, atol=1e-6
    )


def test_floats_where_it_is_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "off")
    assert native.look() is None
    assert isinstance(product_of(quantise(numbers(16, 64), Scheme(4, 32)), None), Affine)


@with_kernels
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("outputs", [1, 40, 300])
@pytest.mark.parametrize("metric", [False, True])
def test_rounding_ends_at_as_good_codes(
    bits: int, outputs: int, metric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the kernels and without: sums have another order there, so that a few near ties turn."""
    weight, few = numbers(outputs, 192), numbers(500, 24, seed=1)
    weight[:, 64:96] = 0  # a block of zeros
    x = np.asarray(few @ numbers(24, 192, seed=2) + 0.3 * numbers(500, 192, seed=3), np.float32)
    known = output_metric(numbers(100, outputs, seed=4)) if metric else None
    matters = np.eye(outputs) if known is None else known
    covariance = np.cov(x.T)
    found, lost = [], []
    for word in ("auto", "off"):
        monkeypatch.setenv(VARIABLE, word)
        moments = Moments(weight, centred=True)
        moments.add(x, x)
        scheme = Scheme(bits, 32)
        found.append(round_jointly(weight, moments, scheme, known))
        errors = weight - dequantise(found[-1])
        lost.append(float(np.vdot(matters @ errors, errors @ covariance)))
    assert np.mean(found[0].codes != found[1].codes) < 0.002
    assert lost[0] == pytest.approx(lost[1], rel=2e-3)
    for quantised in found:
        assert quantised.codes.any()
        assert not quantised.codes[:, 64:96].any()


@with_kernels
@pytest.mark.parametrize("outputs", [1, 37, 64])
def test_columns_are_the_same_to_the_bit(outputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the first rounding."""
    x = numbers(300, 96, seed=1)
    factor = np.linalg.cholesky(x.T @ x / 300 + np.eye(96, dtype=np.float32))
    states = []
    for word in ("auto", "off"):
        monkeypatch.setenv(VARIABLE, word)
        scales = np.full((3, outputs), 0.25, dtype=np.float32)
        states.append(RoundingState(numbers(96, outputs), scales, Scheme(4, 32)))
        round_in_turn(states[-1], factor)
    np.testing.assert_array_equal(states[0].codes, states[1].codes)
    np.testing.assert_array_equal(states[0].errors, states[1].errors)
    assert states[0].codes.any()
