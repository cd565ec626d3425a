"""Products that are rounded in parts of their inputs."""

from __future__ import annotations

import numpy as np
import pytest

from sc2onnx.bundle.schemes import Scheme
from sc2onnx.export.quantize.codec import Floats, dequantise
from sc2onnx.export.quantize.forward import Affine
from sc2onnx.export.quantize.products import input_parts, joined, round_product

SCHEME = Scheme(4, 16)


def numbers(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("columns", "widest", "block", "ends"),
    [
        (12288, 3072, 256, [3072, 6144, 9216, 12288]),
        (18432, 4608, 256, [4608, 9216, 13824, 18432]),
        (1024, 256, 128, [256, 512, 768, 1024]),
        (64, 64, 16, [64]),
        (80, 32, 16, [16, 48, 80]),
        (64, 16, 32, [32, 64]),  # no part is less than a block
    ],
)
def test_parts(columns: int, widest: int, block: int, ends: list[int]) -> None:
    parts = list(input_parts(columns, widest, Scheme(4, block)))
    assert [part.start for part in parts] == [0, *ends[:-1]]
    assert [part.stop for part in parts] == ends


@pytest.mark.parametrize("bias", [None, numbers(24, seed=1)], ids=["no bias", "bias"])
def test_a_part_makes_up_for_what_the_parts_before_it_did(bias: Floats | None) -> None:
    """Whose inputs are related to its own."""
    few = numbers(600, 8)
    inputs = few @ numbers(8, 64, seed=2) + 0.3 * numbers(600, 64, seed=3) + np.float32(0.5)
    product = Affine(numbers(24, 64, seed=4), bias)
    expected = product(inputs)
    lost = []
    for make_up in (False, True):
        parts, owed = [], np.zeros_like(expected)
        for columns in input_parts(64, 16, SCHEME):
            part = Affine(np.ascontiguousarray(product.weight[:, columns]), bias)
            x = inputs[:, columns]
            lacking = [owed] if make_up else [None]
            parts.append(round_product(part, SCHEME, [(x, x)], lacking))
            owed += part.unbiased(x) - x @ dequantise(parts[-1].quantised).T
        done = joined(parts, bias)
        assert (done.bias is None) == (bias is None)
        difference = expected - Affine(dequantise(done.quantised), done.bias)(inputs)
        if bias is not None:
            np.testing.assert_allclose(difference.mean(axis=0), 0, atol=1e-4)
        lost.append(float((difference**2).mean()))
        for columns, each in zip(input_parts(64, 16, SCHEME), parts, strict=True):
            again = done.part(columns).quantised
            np.testing.assert_array_equal(again.codes, each.quantised.codes)
            np.testing.assert_array_equal(again.scales, each.quantised.scales)
    assert lost[1] < 0.7 * lost[0]
