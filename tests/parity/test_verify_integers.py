"""Verifying bundles with quantised weights: against torch with what the integers stand for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import CheckpointError
from sc2onnx.evaluate.measure import Floats
from sc2onnx.export import Calibration, export
from sc2onnx.verify import verify
from sc2onnx.verify.criterion import criterion, integer_tolerance, integer_usual
from sc2onnx.verify.dequantised import Shapes, parameters
from sc2onnx.verify.reference import Reference
from tests.parity.mistakes import MISTAKES
from tests.parity.shapes import SHAPES, Shape, make

NAMES = (
    "window of 1",
    "window of 7",
    "no biases, separate head, no window",
    "one key-value head",
    "stored as bf16 in shards",
)
CHOSEN = [shape for shape in SHAPES if shape.name in NAMES]

pytestmark = pytest.mark.filterwarnings("ignore:.*tokenizer.json:UserWarning")


def recipe(bits: int, directory: Path) -> str:
    """One whose blocks fit the small shapes."""
    path = directory / f"{bits}-bits.json"
    path.write_text(
        json.dumps(
            {"body": {"bits": bits, "block_size": 16}, "head": {"bits": 8, "block_size": 16}}
        )
    )
    return str(path)


@pytest.mark.parametrize(("bits", "target"), [(4, "cpu"), (8, "portable")])
@pytest.mark.parametrize("shape", CHOSEN, ids=str)
def test_every_length_split_and_rewind(
    shape: Shape, bits: int, target: str, tmp_path: Path
) -> None:
    checkpoint = make(shape, tmp_path / "checkpoint")
    export(checkpoint, tmp_path / "bundle", precision=recipe(bits, tmp_path), target=target)
    summary = verify(tmp_path / "bundle", checkpoint, greedy_tokens=16).summary
    assert summary.passed
    assert summary.tolerance == integer_tolerance()
    assert summary.max_rel_diff is not None
    assert 1e-4 < summary.max_rel_diff < 0.05  # activations are rounded, and nothing else
    assert Manifest.read(tmp_path / "bundle").verification == summary


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_mistakes_are_far_outside(
    mistake: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mistake(monkeypatch)
    checkpoint = make(Shape("window of 7"), tmp_path / "checkpoint")
    export(checkpoint, tmp_path / "bundle", precision=recipe(4, tmp_path))
    summary = verify(tmp_path / "bundle", checkpoint, greedy_tokens=8).summary
    assert not summary.passed
    assert summary.max_rel_diff is not None
    assert summary.max_rel_diff > 3 * summary.tolerance


@pytest.mark.kernels
def test_the_graph_for_the_kernels_passes_and_leaves_no_record(
    checkpoint: Path, tmp_path: Path
) -> None:
    export(checkpoint, tmp_path / "bundle", precision="int4", calibration=Calibration(False))
    summary = verify(
        tmp_path / "bundle", checkpoint, greedy_tokens=16, max_length=300, kernels="on"
    ).summary
    assert summary.passed
    assert Manifest.read(tmp_path / "bundle").verification is None


def test_a_calibrated_bundle_is_compared_with_its_own_weights(
    checkpoint: Path, tmp_path: Path
) -> None:
    export(
        checkpoint, tmp_path / "bundle", precision="int4-fast", calibration=Calibration(tokens=512)
    )
    summary = verify(tmp_path / "bundle", checkpoint, max_length=64, greedy_tokens=8).summary
    assert summary.passed
    assert "with the bundle's weights (at most " in summary.reference
    tokens = np.arange(64)
    with Reference(checkpoint) as original, Reference(checkpoint) as other:
        before = other.logits(tokens[None])
        np.testing.assert_array_equal(before, original.logits(tokens[None]))
        other.take_weights(tmp_path / "bundle", calibrated=True)
        moved = np.abs(other.logits(tokens[None]) - before).max() / np.abs(before).max()
    assert 0.01 < moved < 1


def test_another_checkpoint_is_told_by_its_weights(tmp_path: Path) -> None:
    checkpoint = make(Shape("window of 7"), tmp_path / "checkpoint")
    other = make(Shape("window of 7"), tmp_path / "other")
    export(checkpoint, tmp_path / "bundle", precision=recipe(8, tmp_path))
    rewrite(other)
    with pytest.raises(
        CheckpointError,
        match=(
            r"the bundle's model\.layers\.1\.mlp\.c_fc\.weight is .* away .* give the checkpoint "
            r"that the bundle was made from"
        ),
    ):
        verify(tmp_path / "bundle", other)


@pytest.mark.parametrize(
    ("name", "factor", "calibrated"),
    [
        ("model.layers.0.input_layernorm.weight", 1.001, False),
        ("model.norm.bias", 0.0, True),
        ("model.layers.1.mlp.c_fc.bias", 0.999, False),
        ("model.layers.1.mlp.c_fc.bias", 10.0, True),
    ],
)
def test_norms_and_biases_are_compared_too(
    name: str, factor: float, calibrated: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checkpoint = make(Shape("window of 7"), tmp_path / "checkpoint")
    export(checkpoint, tmp_path / "bundle", precision=recipe(8, tmp_path))

    def changed(bundle: Path, shapes: Shapes) -> Iterator[tuple[str, Floats]]:
        return (
            (found, array * np.float32(factor if found == name else 1))
            for found, array in parameters(bundle, shapes)
        )

    with Reference(checkpoint) as reference:
        reference.take_weights(tmp_path / "bundle", calibrated)
    monkeypatch.setattr("sc2onnx.verify.reference.parameters", changed)
    with (
        Reference(checkpoint) as reference,
        pytest.raises(
            CheckpointError, match=f"the bundle's {name} is .* away from the checkpoint's"
        ),
    ):
        reference.take_weights(tmp_path / "bundle", calibrated)


def test_an_error_that_all_logits_share_fails_below_the_largest_one_allowed(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path
) -> None:
    """Computed with other biases of the final norm than the bundle is read to have."""
    from safetensors.torch import load_file, save_file

    name, other = "model.norm.bias", tmp_path / "other"
    shutil.copytree(checkpoint, other)
    tensors = load_file(other / "model.safetensors")
    own = tensors[name].float().numpy()
    tensors[name] = tensors[name] + 0.3
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    export(other, tmp_path / "bundle", precision="int8")

    def read(bundle: Path, shapes: Shapes) -> Iterator[tuple[str, Floats]]:
        found = parameters(bundle, shapes)
        return ((each, own if each == name else array) for each, array in found)

    monkeypatch.setattr("sc2onnx.verify.reference.parameters", read)
    report = verify(tmp_path / "bundle", checkpoint, max_length=64, greedy_tokens=0, keep=False)
    assert report.difference.max_rel_diff < report.criterion.tolerance
    assert report.difference.rms_rel_diff > 2 * integer_usual()
    assert not report.summary.passed


def rewrite(checkpoint: Path) -> None:
    """Other numbers in one matrix."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(checkpoint / "model.safetensors")
    tensor = tensors["model.layers.1.mlp.c_fc.weight"]
    tensors["model.layers.1.mlp.c_fc.weight"] = np.ascontiguousarray(tensor[::-1])
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})


def test_the_tolerance_is_that_of_rounded_activations() -> None:
    assert integer_tolerance() == pytest.approx(0.126, rel=0.01)
    for precision in ("int4", "int8", "my recipe"):
        rule = criterion(precision, 30, quantised=True)
        assert (rule.figure, rule.tolerance, rule.greedy) == (
            "max_rel_diff",
            integer_tolerance(),
            "reported",
        )
        assert rule.usual == pytest.approx(0.0472, rel=0.01)
