"""A whole export: what the bundle says of itself, and that a bad checkpoint leaves no trace."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from sc2onnx import __version__
from sc2onnx.bundle.facts import CacheLayout, ModelFacts
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.provenance import Provenance
from sc2onnx.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    RequestError,
    TensorError,
    UnsupportedModelError,
)
from sc2onnx.export import PRECISIONS, export
from sc2onnx.export.progress import Silent

Make = Callable[..., Path]
Tensors = dict[str, npt.NDArray[Any]]


class Recording(Silent):
    """Everything that it is told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def stage(self, text: str, total: int = 0) -> None:
        self.told.append((text, total))

    def advance(self, nbytes: int) -> None:
        self.told.append(("advance", nbytes))

    def close(self) -> None:
        self.told.append(("close", 0))


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_word_embeddings": False, "sliding_window": None, "head_dim": 6, "rope_theta": 500}],
    ids=str,
)
def test_the_manifest_states_the_facts(
    make_checkpoint: Make,
    tmp_path: Path,
    random_tensors: Callable[..., Tensors],
    settings: dict[str, Any],
    changes: dict[str, Any],
) -> None:
    manifest = export(make_checkpoint(changes, dtype=ml_dtypes.bfloat16), tmp_path / "bundle")
    changed = {**settings, **changes}
    parameters = sum(prod(array.shape) for array in random_tensors(changed).values())
    head_dim = changed.get("head_dim", 4)
    assert manifest.model == ModelFacts(
        architecture="starcoder2",
        num_layers=2,
        hidden_size=16,
        intermediate_size=40,
        num_heads=4,
        num_kv_heads=2,
        head_dim=head_dim,
        vocab_size=32,
        context_length=64,
        sliding_window=changed["sliding_window"],
        rope_theta=changed["rope_theta"],
        tied_embeddings=changed["tie_word_embeddings"],
        parameters=parameters,
        eos_token_ids=(0,),
    )
    assert (manifest.precision, manifest.target, manifest.opset) == ("fp32", "cpu", 24)
    assert manifest.cache == CacheLayout("ring-transposed-values", "float32")
    # and a table of cosines and one of sines
    assert manifest.weight_bytes == 4 * (parameters + 2 * 64 * head_dim // 2)
    assert manifest.provenance == Provenance("checkpoint", None, None, f"sc2onnx {__version__}")
    assert manifest.verification is None
    assert Manifest.read(tmp_path / "bundle") == manifest


def test_small_files_and_the_licence_are_taken_over(make_checkpoint: Make, tmp_path: Path) -> None:
    directory = make_checkpoint()
    taken = {
        "generation_config.json": '{ "do_sample": false}\n',
        "tokenizer_config.json": "{}",
        "special_tokens_map.json": "{}",
        "LICENSE": "terms\r\n",
    }
    for name, text in taken.items():
        (directory / name).write_bytes(text.encode())
    (directory / "README.md").write_text("---\nlicense: bigcode-openrail-m\n---\n# StarCoder2\n")
    (directory / "notes.txt").write_text("not for others")
    manifest = export(directory, tmp_path / "bundle")
    for name in [*taken, "config.json", "tokenizer.json"]:
        assert (tmp_path / "bundle" / name).read_bytes() == (directory / name).read_bytes()
    assert set(manifest.files) == {
        "model.onnx",
        "model.adapters.onnx",
        "model.onnx.data",
        "config.json",
        "tokenizer.json",
        *taken,
    }
    assert {path.name for path in (tmp_path / "bundle").iterdir()} == {
        *manifest.files,
        "README.md",
        "sc2onnx.json",
    }
    assert manifest.provenance.license == "bigcode-openrail-m"
    assert "license: bigcode-openrail-m\n" in (tmp_path / "bundle" / "README.md").read_text()


def test_a_checkpoint_without_a_tokenizer_is_exported_with_a_warning(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    with pytest.warns(
        UserWarning,
        match=(
            r"checkpoint has no tokenizer\.json: the bundle will take and give token ids, not text"
        ),
    ):
        manifest = export(make_checkpoint(tokenizer=False), tmp_path / "bundle")
    assert "tokenizer.json" not in manifest.files
    assert not (tmp_path / "bundle" / "tokenizer.json").exists()


def test_a_complete_checkpoint_is_exported_without_a_warning(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(tiny_checkpoint, tmp_path / "bundle")


@pytest.mark.parametrize("precision", ["int3", "FP32", "", "float32"])
def test_an_unknown_precision_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, precision: str
) -> None:
    with pytest.raises(
        RequestError, match=f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}"
    ):
        export(tiny_checkpoint, tmp_path / "bundle", precision=precision)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"eos_token_id": [1, 2]}, (1, 2, 5)),
        ({"eos_token_id": 3}, (3, 5)),
        ({"eos_token_id": [7, 5]}, (7, 5)),
        ({"eos_token_id": None}, (5,)),
        ({"eos_token_id": []}, (5,)),
        ({"do_sample": True}, (5,)),
        (None, (5,)),
    ],
)
@pytest.mark.filterwarnings("ignore:the end-of-text:UserWarning")
def test_the_end_tokens_of_generation_config_and_config_are_united(
    make_checkpoint: Make, tmp_path: Path, written: dict[str, Any] | None, expected: tuple[int, ...]
) -> None:
    directory = make_checkpoint({"eos_token_id": 5})
    if written is not None:
        (directory / "generation_config.json").write_text(json.dumps(written))
    assert export(directory, tmp_path / "bundle").model.eos_token_ids == expected


@pytest.mark.parametrize("value", [-1, "0", 0.5, True, [0, None], [[0]], {"id": 0}])
def test_end_tokens_of_generation_config_that_are_none_are_refused(
    make_checkpoint: Make, tmp_path: Path, value: Any
) -> None:
    directory = make_checkpoint()
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(CheckpointError, match="eos_token_id"):
        export(directory, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_progress_is_told_of_exactly_the_bytes_of_the_weights(
    make_checkpoint: Make, tmp_path: Path, dtype: Any
) -> None:
    recording = Recording()
    manifest = export(make_checkpoint(dtype=dtype), tmp_path / "bundle", progress=recording)
    advances = [number for number, (text, _) in enumerate(recording.told) if text == "advance"]
    assert sum(recording.told[number][1] for number in advances) == manifest.weight_bytes
    ((stage, total),) = [
        (number, total) for number, (_, total) in enumerate(recording.told[: advances[0]]) if total
    ]
    # all of them within the stage that announced them
    assert advances == list(range(stage + 1, stage + 1 + len(advances)))
    assert total >= manifest.weight_bytes
    assert recording.told[-1] == ("close", 0)
    assert [text for text, _ in recording.told].count("close") == 1


DAMAGES: dict[str, tuple[type[CheckpointError], Callable[[Path], object]]] = {
    "no config.json": (CheckpointNotFoundError, lambda path: (path / "config.json").unlink()),
    "broken config.json": (
        CorruptCheckpointError,
        lambda path: (path / "config.json").write_text('{"model_type": "starcoder2"'),
    ),
    "another model": (
        UnsupportedModelError,
        lambda path: edit_json(path / "config.json", lambda raw: raw.update(model_type="llama")),
    ),
    "RoPE scaling": (
        UnsupportedModelError,
        lambda path: edit_json(
            path / "config.json", lambda raw: raw.update(rope_scaling={"type": "linear"})
        ),
    ),
    "unknown setting": (
        UnsupportedModelError,
        lambda path: edit_json(
            path / "config.json", lambda raw: raw.update(attention_multiplier=2)
        ),
    ),
    "other sizes": (
        TensorError,
        lambda path: edit_json(path / "config.json", lambda raw: raw.update(vocab_size=33)),
    ),
    "a layer too many": (
        TensorError,
        lambda path: edit_json(path / "config.json", lambda raw: raw.update(num_hidden_layers=1)),
    ),
    "a layer too few": (
        TensorError,
        lambda path: edit_json(path / "config.json", lambda raw: raw.update(num_hidden_layers=3)),
    ),
    "no head": (
        TensorError,
        lambda path: edit_json(
            path / "config.json", lambda raw: raw.update(tie_word_embeddings=False)
        ),
    ),
    "no weights": (CheckpointNotFoundError, lambda path: (path / "model.safetensors").unlink()),
    "only a pickle": (
        UnsupportedModelError,
        lambda path: (path / "model.safetensors").rename(path / "pytorch_model.bin"),
    ),
    "truncated weights": (
        CorruptCheckpointError,
        lambda path: os.truncate(path / "model.safetensors", 5000),
    ),
    "empty weights": (
        CorruptCheckpointError,
        lambda path: os.truncate(path / "model.safetensors", 0),
    ),
    "broken generation_config.json": (
        CorruptCheckpointError,
        lambda path: (path / "generation_config.json").write_text("[]"),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_checkpoint_is_refused_and_leaves_no_output(
    make_checkpoint: Make,
    tmp_path: Path,
    contents: Callable[[Path], dict[str, bytes | None]],
    damage: str,
) -> None:
    expected, inflict = DAMAGES[damage]
    directory = make_checkpoint()
    inflict(directory)
    (tmp_path / "place").mkdir()
    with pytest.raises(CheckpointError) as caught:
        export(directory, tmp_path / "place" / "bundle")
    assert type(caught.value) is expected
    assert contents(tmp_path / "place") == {}


@pytest.mark.parametrize(
    "change", [lambda path: os.truncate(path, 5000), os.unlink], ids=["shrinks", "vanishes"]
)
def test_a_checkpoint_that_changes_while_it_is_written_is_refused_and_leaves_no_output(
    make_checkpoint: Make,
    tmp_path: Path,
    contents: Callable[[Path], dict[str, bytes | None]],
    change: Callable[[Path], object],
) -> None:
    directory = make_checkpoint()

    class Changing(Silent):
        changed = False

        def advance(self, nbytes: int) -> None:
            if not self.changed:
                change(directory / "model.safetensors")
                self.changed = True

    (tmp_path / "place").mkdir()
    # which one is asserted below, after what it left
    with pytest.raises(Exception) as caught:  # noqa: PT011
        export(directory, tmp_path / "place" / "bundle", progress=Changing())
    assert contents(tmp_path / "place") == {}
    assert isinstance(caught.value, CheckpointError)
