"""Names of tensors under wrappers, and what is said where none fits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file

from sc2onnx.errors import TensorError
from sc2onnx.export import export, weights
from sc2onnx.export.checkpoint import Checkpoint
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.names import own_names

Make = Callable[..., Path]
Tensors = dict[str, npt.NDArray[Any]]
OWN = [
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.input_layernorm.bias",
    "model.layers.0.self_attn.rotary_emb.inv_freq",
    "model.layers.11.mlp.c_fc.bias",
    "model.norm.weight",
    "model.rotary_emb.inv_freq",
    "lm_head.weight",
]
ALL = [
    "_orig_mod.",
    "module.",
    "_fsdp_wrapped_module.",
    "_forward_module.",
    "_fpw_module.",
    "model.",
    "base_model.model.",
    "pretrained_model.",
    "_orig_mod.module.",
    "module._orig_mod.",
    "_forward_module.model._orig_mod.",
    "base_model.model._orig_mod.",
]


def wrapped(edit: Callable[[str], str]) -> Callable[[Tensors], None]:
    """A change of the names of all tensors before they are saved."""

    def rename(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[edit(name)] = tensors.pop(name)

    return rename


@pytest.mark.parametrize("prefix", ALL)
def test_a_prefix_of_every_tensor_is_dropped(prefix: str) -> None:
    assert own_names(prefix + name for name in OWN) == {prefix + name: name for name in OWN}


@pytest.mark.parametrize("prefix", ["", *ALL])
def test_so_is_it_of_the_bare_model(prefix: str) -> None:
    bare = {prefix + name.removeprefix("model."): name for name in OWN if name != "lm_head.weight"}
    assert own_names(bare) == bare
    # transformers takes it beside the bare body
    head = {f"{prefix}lm_head.weight": "lm_head.weight"}
    assert own_names(bare | head) == bare | head


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("layers.0.", "layers.0._orig_mod."),
        ("layers.", "_orig_mod.layers."),
        ("model.", "model._orig_mod."),
        ("model.", "model.module."),
        (".mlp.", "._checkpoint_wrapped_module.mlp."),
        (".self_attn.", "._fsdp_wrapped_module._checkpoint_wrapped_module.self_attn."),
    ],
)
def test_wrappers_of_parts_are_dropped(before: str, after: str) -> None:
    names = OWN if before in ("model.", "layers.0.", ".mlp.", ".self_attn.") else OWN[1:5]
    inside = {name.replace(before, after, 1): name for name in names}
    assert own_names(inside) == inside


def test_own_names_stay() -> None:
    assert own_names(OWN) == {name: name for name in OWN}
    assert own_names(["a", "b.c", "lm_head.weight"]) == {
        "a": "a",
        "b.c": "b.c",
        "lm_head.weight": "lm_head.weight",
    }
    extra = [*OWN, "score.weight", "v_head.summary.bias"]
    assert own_names(extra) == {name: name for name in extra}


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["_orig_mod." + OWN[0], *OWN[1:]], ["'model.'", "'_orig_mod.model.'", "torch.compile"]),
        (
            ["module." + name for name in OWN[:-1]] + OWN[-1:],
            ["'module.model.'", "''", "DistributedDataParallel"],
        ),
        (["module." + OWN[-1], *OWN[:-1]], ["'module.'", "'model.'", "lm_head.weight"]),
        ([OWN[0].removeprefix("model."), *OWN[1:]], ["'model.'", "''"]),
        ([*OWN, "model._orig_mod.norm.weight"], ["'model._orig_mod.'", "torch.compile"]),
        (
            ["base_model.model." + name for name in OWN[:4]] + OWN[4:],
            ["'base_model.model.model.'", "peft"],
        ),
    ],
)
def test_a_prefix_of_some_tensors_is_named(names: list[str], shown: list[str]) -> None:
    with pytest.raises(TensorError, match="save the model without its wrapper") as caught:
        own_names(names)
    for part in shown:
        assert part in str(caught.value)


def test_two_names_of_one_tensor_are_refused() -> None:
    with pytest.raises(
        TensorError, match=r"tensors model\.norm\.weight and .* are both model\.norm"
    ):
        own_names([*OWN, "model.norm._orig_mod.weight"])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shards", [0, 2])
def test_a_wrapped_checkpoint_gives_the_same_bundle(
    make_checkpoint: Make, tmp_path: Path, tied: bool, shards: int
) -> None:
    changes = {"tie_word_embeddings": tied}
    plain = export(make_checkpoint(changes, name="plain"), tmp_path / "a")
    edit = wrapped(lambda name: f"_orig_mod.module.{name}")
    other = export(make_checkpoint(changes, edit=edit, shards=shards), tmp_path / "b")
    for file in ("model.onnx", "model.onnx.data"):
        assert plain.files[file] == other.files[file]


def test_the_bare_model_gives_the_same_bundle(make_checkpoint: Make, tmp_path: Path) -> None:
    plain = export(make_checkpoint(name="plain"), tmp_path / "a")
    bare = make_checkpoint(edit=wrapped(lambda name: name.removeprefix("model.")))
    assert export(bare, tmp_path / "b").files["model.onnx.data"] == plain.files["model.onnx.data"]


def refused(directory: Path) -> str:
    checkpoint = Checkpoint.open(directory)
    with pytest.raises(TensorError) as caught:
        weights.check_complete(checkpoint, Starcoder2Config.from_dict(checkpoint.config))
    return str(caught.value)


def without(lost: Callable[[str], bool]) -> Callable[[Tensors], None]:
    """A change that takes tensors away."""

    def remove(tensors: Tensors) -> None:
        for name in list(filter(lost, tensors)):
            del tensors[name]

    return remove


@pytest.mark.parametrize(
    ("changes", "edit", "shown"),
    [
        (
            {"num_hidden_layers": 5},
            without(lambda name: name.startswith(("model.layers.3.", "model.layers.4."))),
            "lacks 32 tensors",
        ),
        (
            {"num_hidden_layers": 5},
            without(lambda name: name.startswith(("model.layers.3.", "model.layers.4."))),
            "it has layers 0 to 2, config.json num_hidden_layers 5",
        ),
        (
            {},
            wrapped(lambda name: name.replace("c_fc", "fc1")),
            "the nearest name is model.layers.0.mlp.fc1.",
        ),
        ({}, wrapped(lambda name: f"student.{name}"), "all its 35 tensors begin with 'student.'"),
        (
            {},
            without(lambda name: name.endswith(".bias") and "norm" not in name),
            "it has no biases, use_bias is true",
        ),
        ({}, wrapped(lambda name: name[6:].replace(".", "_")), "it has 35 tensors ("),
    ],
)
def test_what_is_there_instead_is_said(
    make_checkpoint: Make, changes: dict[str, Any], edit: Callable[[Tensors], None], shown: str
) -> None:
    assert shown in refused(make_checkpoint(changes, edit=edit))


def test_names_of_strangers_are_cut_and_printable(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    tensors = load_file(directory / "model.safetensors")
    save_file(
        {**tensors, "\x1b[2J\n" + "x" * 100_000: np.zeros(1, np.float32)},
        directory / "model.safetensors",
    )
    message = refused(directory)
    assert message.isprintable()
    assert len(message) < 500


def test_very_many_names_take_no_time(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    many = {f"model.layers.{number}.x": np.zeros((), np.float32) for number in range(5_000)}
    save_file(many, directory / "model.safetensors")
    assert "the checkpoint lacks" in refused(directory)


@pytest.mark.parametrize("buffer", ["inv_freq", "original_inv_freq", "cos_cached", "sin_cached"])
def test_tables_of_the_rotary_embedding_are_left_out(make_checkpoint: Make, buffer: str) -> None:
    def add(tensors: Tensors) -> None:
        for place in ("model.rotary_emb", "model.layers.1.self_attn.rotary_emb"):
            tensors[f"{place}.{buffer}"] = np.ones(2, np.float32)

    opened = Checkpoint.open(make_checkpoint(edit=add))
    weights.check_complete(opened, Starcoder2Config.from_dict(opened.config))
