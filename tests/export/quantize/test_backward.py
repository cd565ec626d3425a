"""Gradients of a layer's equations, against central differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from sc2onnx.export.quantize.backward import (
    attention_gradient,
    gelu_gradient,
    layer_norm_gradient,
)
from sc2onnx.export.quantize.codec import Floats
from sc2onnx.export.quantize.forward import Affine, attention, gelu, layer_norm, rotary_tables
from tests.export.quantize.conftest import Case

STEP = 0.02


def numbers(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def check(function: Callable[[Floats], Floats], x: Floats, gradient: Floats, found: Floats) -> None:
    """In a dozen directions."""
    assert found.shape == x.shape
    for seed in range(12):
        direction = numbers(*x.shape, seed=100 + seed) / np.float32(x.size**0.5)
        ahead, back = function(x + STEP * direction), function(x - STEP * direction)
        expected = float(((ahead - back).astype(np.float64) * gradient).sum() / (2 * STEP))
        size = float(np.linalg.norm(found) * np.linalg.norm(direction))
        assert float((found * direction).sum()) == pytest.approx(expected, abs=2e-3 * size)


def test_norms() -> None:
    norm = Affine(numbers(48, seed=1), numbers(48, seed=2))
    x, gradient = 3 * numbers(2, 5, 48) + 1, numbers(2, 5, 48, seed=4)
    found = layer_norm_gradient(x, norm, 1e-2, gradient)
    check(lambda y: layer_norm(y, norm, 1e-2), x, gradient, found)


@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh"])
def test_activations(activation: str, make_case: Callable[..., Case]) -> None:
    config = make_case({"hidden_act": activation}).config
    x, gradient = 2 * numbers(2, 5, 64), numbers(2, 5, 64, seed=4)
    found = gelu_gradient(x, config, gradient)
    check(lambda y: gelu(y, config), x, gradient, found)


@pytest.mark.parametrize(
    "changes", [{}, {"sliding_window": None}, {"num_key_value_heads": 1}], ids=str
)
def test_attention(changes: Mapping[str, Any], make_case: Callable[..., Case]) -> None:
    config = make_case(changes).config
    width = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    tables = rotary_tables(config, 24)
    qkv, gradient = numbers(2, 24, width), numbers(2, 24, config.query_size, seed=4)
    before = qkv.copy()
    found = attention_gradient(qkv, config, tables, gradient)
    np.testing.assert_array_equal(qkv, before)
    check(lambda y: attention(y, config, tables), qkv, gradient, found)
