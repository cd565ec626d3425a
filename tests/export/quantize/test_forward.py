"""The layers that calibration computes, against torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="compares with torch: install the verify extra")

import torch
import transformers

from sc2onnx.export.quantize.calibrate import affine
from sc2onnx.export.quantize.forward import Affine, attention, gelu, layer_norm, rotary_tables
from tests.export.quantize.conftest import Case, open_case
from tests.parity.shapes import Shape, make

pytestmark = pytest.mark.torch

LENGTH = 24

CHOSEN: Mapping[str, Mapping[str, Any]] = {
    "window of 1": {"sliding_window": 1},
    "window of 7": {},
    "window as long as the text": {"sliding_window": LENGTH},
    "window one shorter": {"sliding_window": LENGTH - 1},
    "no window": {"sliding_window": None},
    "one key-value head": {"num_key_value_heads": 1},
    "as many key-value heads as heads": {"num_key_value_heads": 4},
    "three groups of two": {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 3},
    "no biases": {"use_bias": False},
    "exact GELU": {"hidden_act": "gelu"},
    "wide epsilon": {"norm_epsilon": 1e-2},
    "other theta": {"rope_theta": 500.0},
}


@pytest.mark.parametrize("name", CHOSEN)
def test_every_layer(name: str, tmp_path: Path) -> None:
    """Each from torch's own input, two texts at once, every position."""
    checkpoint = make(
        Shape(name, {"intermediate_size": 128, "attn_implementation": "eager", **CHOSEN[name]}),
        tmp_path / "checkpoint",
    )
    case = open_case(checkpoint)
    config = case.config
    reference = transformers.Starcoder2ForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32
    ).eval()  # type: ignore[no-untyped-call]
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, LENGTH))
    with torch.no_grad():
        states = [
            state.numpy()
            for state in reference(
                torch.from_numpy(tokens), output_hidden_states=True
            ).hidden_states
        ]
    assert len(states) == config.num_hidden_layers + 1
    tables = rotary_tables(config, LENGTH)
    for layer in range(config.num_hidden_layers):
        parts = {
            part: affine(case.floats, f"model.layers.{layer}.{part}")
            for part in (
                "input_layernorm",
                "self_attn.qkv_proj",
                "self_attn.o_proj",
                "post_attention_layernorm",
                "mlp.c_fc",
                "mlp.c_proj",
            )
        }
        x = states[layer].copy()
        normed = layer_norm(x, parts["input_layernorm"], config.norm_epsilon)
        x += parts["self_attn.o_proj"](
            attention(parts["self_attn.qkv_proj"](normed), config, tables)
        )
        normed = layer_norm(x, parts["post_attention_layernorm"], config.norm_epsilon)
        x += parts["mlp.c_proj"](gelu(parts["mlp.c_fc"](normed), config))
        if layer == config.num_hidden_layers - 1:  # torch's last state is past the last norm
            x = layer_norm(x, affine(case.floats, "model.norm"), config.norm_epsilon)
        assert x.dtype == np.float32
        np.testing.assert_allclose(
            x, states[layer + 1], atol=2e-5 * np.abs(states[layer + 1]).max()
        )


def test_what_is_computed_from_is_left_as_it_was(make_case: Callable[..., Case]) -> None:
    """Calibration reads its streams and activations several times."""
    config, random = make_case().config, np.random.default_rng(0)
    norm = Affine(np.ones(32, dtype=np.float32), np.ones(32, dtype=np.float32))
    x, qkv = (random.standard_normal((2, 5, width)).astype(np.float32) for width in (32, 64))
    before = x.copy(), qkv.copy()
    Affine(np.eye(32, dtype=np.float32), norm.bias)(x)
    layer_norm(x, norm, 1e-5)
    gelu(x, config)
    attention(qkv, config, rotary_tables(config, 5))
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(qkv, before[1])
