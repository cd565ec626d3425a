"""The published configurations, reduced in size, go all the way: export, and the same logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from safetensors.numpy import save_file

from sc2onnx.errors import CheckpointError
from sc2onnx.export import Calibration, export
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.weights import checkpoint_shapes
from sc2onnx.verify import verify
from tests.published import PUBLISHED, reduced


def random_tensors(settings: dict[str, Any]) -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        name: (random.standard_normal(shape) / (shape[-1] ** 0.5 if len(shape) > 1 else 4)).astype(
            np.float32
        )
        for name, shape in checkpoint_shapes(Starcoder2Config.from_dict(settings)).items()
    }


def write(
    directory: Path, settings: dict[str, Any], edit: Callable[[dict[str, Any]], object] = len
) -> Path:
    """A checkpoint of random numbers, ``edit`` applied to its tensors before they are saved."""
    tensors = random_tensors(settings)
    edit(tensors)
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(settings))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.mark.filterwarnings("ignore:.*token ids, not text")
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_exports_and_verifies(name: str, tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "checkpoint", settings := reduced(name))
    facts = export(checkpoint, tmp_path / "out").model
    assert facts.tied_embeddings is settings.get("tie_word_embeddings", True)
    assert (facts.context_length, facts.sliding_window) == (16384, 4096)
    assert (facts.rope_theta, facts.eos_token_ids) == (settings["rope_theta"], (0,))
    assert verify(tmp_path / "out", checkpoint, max_length=40, greedy_tokens=8).summary.passed


def untied(tensors: dict[str, Any]) -> None:
    embedding = tensors["model.embed_tokens.weight"]
    noise = np.random.default_rng(1).standard_normal(embedding.shape)
    tensors["lm_head.weight"] = (embedding + 0.02 * noise).astype(np.float32)


def head_in_half(tensors: dict[str, Any]) -> None:
    half = tensors["model.embed_tokens.weight"].astype(np.float16)
    tensors["model.embed_tokens.weight"], tensors["lm_head.weight"] = half.astype(np.float32), half


def only_the_head(tensors: dict[str, Any]) -> None:
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")


def bare(tensors: dict[str, Any]) -> None:
    for name in list(tensors):
        tensors[name.removeprefix("model.")] = tensors.pop(name)


FIVE = int(transformers.__version__.split(".")[0]) >= 5


@pytest.mark.skipif(not FIVE, reason="transformers 4 ties whatever the checkpoint has")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("edit", [untied, head_in_half, only_the_head, bare])
def test_a_pair_is_what_transformers_makes_of_it(
    edit: Callable[[dict[str, Any]], None], precision: str, tmp_path: Path
) -> None:
    checkpoint = write(tmp_path / "checkpoint", reduced("3b"), edit)
    out = tmp_path / "out"
    calibration = Calibration(wanted=False) if precision == "int8" else None
    facts = export(checkpoint, out, precision=precision, calibration=calibration).model
    assert facts.tied_embeddings is (edit is not untied)
    assert verify(out, checkpoint, max_length=24, greedy_tokens=4).summary.passed


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_reference_that_lacks_tensors_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Names that export knows and transformers does not, unless they are changed for it."""
    monkeypatch.setattr("sc2onnx.verify.reference.RENAMED", {})

    def wrapped(tensors: dict[str, Any]) -> None:
        for name in list(tensors):
            tensors[f"_orig_mod.{name}"] = tensors.pop(name)

    checkpoint = write(tmp_path / "checkpoint", reduced("3b"), wrapped)
    export(checkpoint, tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"transformers finds no .* tensors missing"):
        verify(tmp_path / "out", checkpoint, max_length=8, greedy_tokens=1)
