"""Deep positions: the frequencies' rounding is multiplied by the position, so
it shows here or nowhere.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

import sc2onnx
from sc2onnx.export import export
from sc2onnx.verify import TOLERANCE
from sc2onnx.verify.reference import Reference, correct_rotary
from tests.parity.shapes import Shape, make

DEPTH = 8300


@pytest.mark.parametrize("theta", [999999.4420358813, 1e6, 1e5], ids=["3B", "7B", "15B"])
def test_the_real_thetas_agree_at_position_8300(theta: float, tmp_path: Path) -> None:
    settings = {
        "hidden_size": 256,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "sliding_window": 500,
        "rope_theta": theta,
    }
    shape = Shape("deep", {**settings, "num_hidden_layers": 1, "max_position_embeddings": 16384})
    checkpoint = make(shape, tmp_path / "checkpoint")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        export(checkpoint, tmp_path / "bundle")
    tokens = np.random.default_rng(0).integers(0, 97, (1, DEPTH))
    with Reference(checkpoint) as torch_model:
        expected = torch_model.logits(tokens)[0]
    with sc2onnx.load(tmp_path / "bundle").sequence() as sequence:
        ours = sequence.append(tokens[0])
    assert ours is not None
    assert np.abs(ours - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_only_the_last_place_is_corrected(checkpoint: Path) -> None:
    """A reference with another theta stays another model."""
    model = Reference(checkpoint).model
    frequencies = model.model.rotary_emb.inv_freq
    right = frequencies.clone()
    frequencies[3] *= 1 + 1.2e-7
    assert correct_rotary(model) == 1
    assert (frequencies == right).all()
    frequencies[1:] *= 1.0001
    assert correct_rotary(model) == 0
    assert not (frequencies == right).all()
