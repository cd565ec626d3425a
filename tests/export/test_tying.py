"""Embedding and head: either of them, both alike in any type, both different, as transformers 5."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from sc2onnx.errors import TensorError
from sc2onnx.export import export, tying, weights
from sc2onnx.export.checkpoint import Checkpoint
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.tying import settle
from sc2onnx.export.weights import EMBEDDING, HEAD

Make = Callable[..., Path]
Tensors = dict[str, npt.NDArray[Any]]
FLOAT32 = np.dtype(np.float32)


def settled(directory: Path) -> tuple[Checkpoint, Starcoder2Config]:
    checkpoint = Checkpoint.open(directory)
    found = settle(checkpoint, Starcoder2Config.from_dict(checkpoint.config))
    weights.check_complete(*found)
    return found


def half(tensors: Tensors) -> npt.NDArray[Any]:
    """The embedding in numbers that bfloat16 holds, put into the tensors too."""
    tensors[EMBEDDING] = tensors[EMBEDDING].astype(ml_dtypes.bfloat16).astype(np.float32)
    return tensors[EMBEDDING].astype(ml_dtypes.bfloat16)


def alike(tensors: Tensors) -> None:
    tensors[HEAD] = tensors[EMBEDDING].copy()


def head_in_another_type(tensors: Tensors) -> None:
    tensors[HEAD] = half(tensors)


def embedding_in_another_type(tensors: Tensors) -> None:
    tensors[EMBEDDING], tensors[HEAD] = half(tensors), tensors[EMBEDDING]


def zeros_of_either_sign(tensors: Tensors) -> None:
    tensors[EMBEDDING][3] = 0.0
    tensors[HEAD] = tensors[EMBEDDING].copy()
    tensors[HEAD][3] = -0.0


def only_the_head(tensors: Tensors) -> None:
    tensors[HEAD] = tensors.pop(EMBEDDING)


@pytest.mark.parametrize("chunk_bytes", [16 << 20, 64])
@pytest.mark.parametrize("shards", [0, 3])
@pytest.mark.parametrize(
    "edit",
    [alike, head_in_another_type, embedding_in_another_type, zeros_of_either_sign, only_the_head],
)
def test_one_of_the_pair_is_enough_and_the_other_may_repeat_it(
    make_checkpoint: Make,
    monkeypatch: pytest.MonkeyPatch,
    edit: Callable[[Tensors], None],
    shards: int,
    chunk_bytes: int,
) -> None:
    monkeypatch.setattr(tying, "CHUNK_BYTES", chunk_bytes)
    kept: Tensors = {}

    def edited(tensors: Tensors) -> None:
        edit(tensors)
        kept.update(tensors)

    checkpoint, config = settled(make_checkpoint(edit=edited, shards=shards))
    assert config.tie_word_embeddings
    made = weights.graph_weights(checkpoint, config, FLOAT32)
    assert HEAD not in made
    found = np.concatenate(list(made[EMBEDDING].chunks()))
    np.testing.assert_array_equal(
        found,
        kept.get(EMBEDDING, kept.get(HEAD)).astype(np.float32),  # type: ignore[union-attr]
    )


@pytest.mark.parametrize("chunk_bytes", [16 << 20, 64])
@pytest.mark.parametrize("place", [0, 300, -1])
def test_a_head_that_differs_stands_for_itself(
    make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, place: int
) -> None:
    def differing(tensors: Tensors) -> None:
        tensors[HEAD] = tensors[EMBEDDING].copy()
        tensors[HEAD].flat[place] += 1

    monkeypatch.setattr(tying, "CHUNK_BYTES", chunk_bytes)
    checkpoint, config = settled(make_checkpoint(edit=differing))
    assert not config.tie_word_embeddings
    head, embedding = (
        np.concatenate(list(weights.graph_weights(checkpoint, config, FLOAT32)[name].chunks()))
        for name in (HEAD, EMBEDDING)
    )
    assert np.flatnonzero(head != embedding) == place % embedding.size


@pytest.mark.parametrize("shards", [0, 2])
def test_a_pair_that_differs_is_exported_with_a_warning(
    make_checkpoint: Make, tmp_path: Path, shards: int
) -> None:
    def differing(tensors: Tensors) -> None:
        tensors[HEAD] = tensors[EMBEDDING] + 1

    checkpoint = make_checkpoint(edit=differing, shards=shards)
    with pytest.warns(
        UserWarning, match=r"lm_head\.weight of its own .* set tie_word_embeddings to false"
    ):
        written = export(checkpoint, tmp_path / "out")
    assert not written.model.tied_embeddings
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = make_checkpoint({"tie_word_embeddings": False}, name="untied", edit=differing)
        untied = export(again, tmp_path / "again")
    assert untied.files["model.onnx.data"] == written.files["model.onnx.data"]
    assert untied.model == written.model


@pytest.mark.parametrize("where", [EMBEDDING, HEAD])
@pytest.mark.parametrize("shape", [(33, 16), (32, 8), (0, 16), ()])
def test_a_pair_of_two_shapes_is_refused(
    make_checkpoint: Make, where: str, shape: tuple[int, ...]
) -> None:
    def misshapen(tensors: Tensors) -> None:
        tensors[HEAD] = tensors[EMBEDDING].copy()
        tensors[where] = np.zeros(shape, np.float32)

    with pytest.raises(TensorError, match=rf"tensor {where} has shape .*, expected \(32, 16\)"):
        settled(make_checkpoint(edit=misshapen))


def test_neither_of_the_pair_is_too_little(make_checkpoint: Make) -> None:
    with pytest.raises(TensorError, match=f"lacks tensor {EMBEDDING}"):
        settled(make_checkpoint(edit=lambda tensors: tensors.pop(EMBEDDING)))


@pytest.mark.parametrize(("lost", "other"), [(HEAD, EMBEDDING), (EMBEDDING, HEAD)])
def test_an_untied_pair_is_needed_whole(make_checkpoint: Make, lost: str, other: str) -> None:
    changes = {"tie_word_embeddings": False}
    with pytest.raises(TensorError, match=f"lacks tensor {lost}") as caught:
        settled(make_checkpoint(changes, edit=lambda tensors: tensors.pop(lost)))
    assert ("tie_word_embeddings true" in str(caught.value)) is (lost == HEAD)
