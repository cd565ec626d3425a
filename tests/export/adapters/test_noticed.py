"""Adapters are noticed beside a model, instead of one and inside one;
none is left out in silence.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sc2onnx.errors import TensorError, UnsupportedModelError
from sc2onnx.export import export
from sc2onnx.export.checkpoint import Checkpoint
from sc2onnx.export.estimate import estimates

Make = Callable[..., Path]
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "base_model_name_or_path": "bigcode/starcoder2-3b",
    "r": 4,
    "target_modules": ["q_proj"],
}


def add_adapter(directory: Path, **changes: Any) -> Path:
    """What peft writes, into a directory that may be new."""
    directory.mkdir(exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps({**CONFIG, **changes}))
    save_file(
        {"base_model.model.x.lora_A.weight": np.ones(4, np.float32)},
        directory / "adapter_model.safetensors",
    )
    return directory


def refused(directory: Path, out: Path) -> str:
    """Export and plan refuse with the same words, in one line."""
    with pytest.raises(UnsupportedModelError) as caught:
        export(directory, out)
    with pytest.raises(UnsupportedModelError) as planned:
        estimates(str(directory))
    assert str(planned.value) == str(caught.value)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    return str(caught.value)


def test_an_adapter_alone_is_named_with_its_base(tmp_path: Path) -> None:
    message = refused(add_adapter(tmp_path / "a"), tmp_path / "out")
    assert (
        "is an adapter (LORA) of bigcode/starcoder2-3b (adapter_config.json), not a model"
        in message
    )
    assert "export bigcode/starcoder2-3b with --adapter DIR, which merges it" in message


def test_a_kind_that_is_not_merged_here_is_left_to_peft(tmp_path: Path) -> None:
    message = refused(add_adapter(tmp_path / "a", peft_type="LOHA"), tmp_path / "out")
    assert "is an adapter (LOHA) of bigcode/starcoder2-3b" in message
    assert "merge_and_unload()" in message


def test_so_is_one_beside_a_configuration(make_checkpoint: Make, tmp_path: Path) -> None:
    directory = add_adapter(make_checkpoint())
    (directory / "model.safetensors").unlink()
    assert "not a model" in refused(directory, tmp_path / "out")


@pytest.mark.parametrize("shards", [0, 2])
def test_one_beside_a_model_is_not_left_out(
    make_checkpoint: Make, tmp_path: Path, shards: int
) -> None:
    message = refused(add_adapter(make_checkpoint(shards=shards)), tmp_path / "out")
    assert "holds an adapter (LORA) of bigcode/starcoder2-3b beside its model" in message
    assert "export it with --adapter DIR, which merges it" in message
    assert "take the adapter's files away to export the model alone" in message


@pytest.mark.parametrize(
    "name",
    [
        "adapter_model.safetensors",
        "adapter_model.bin",
        "adapters.safetensors",
        "adapters.npz",
        "pytorch_lora_weights.bin",
    ],
)
def test_weights_of_an_adapter_are_enough(make_checkpoint: Make, tmp_path: Path, name: str) -> None:
    directory = make_checkpoint()
    (directory / name).write_bytes(b"")
    assert f"an adapter of an unnamed model beside its model ({name})" in refused(
        directory, tmp_path / "out"
    )


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "ADAPTION_PROMPT"])
def test_what_cannot_be_merged_is_not_told_to_be(tmp_path: Path, kind: str) -> None:
    message = refused(add_adapter(tmp_path / "a", peft_type=kind), tmp_path / "out")
    assert f"an adapter ({kind})" in message
    assert "cannot be exported" in message
    assert "merge_and_unload" not in message


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"{",
        b"[]",
        b'{"peft_type": 7, "base_model_name_or_path": ["x"]}',
        b"[" * 100_000,
        b'{"a": 1e400}',
        b'{"peft_type": "%s", "base_model_name_or_path": "%s"}' % (b"\\u001b" * 999, b"\\n" * 9999),
    ],
    ids=len,
)
def test_an_adapter_that_is_damaged_is_one_all_the_same(tmp_path: Path, config: bytes) -> None:
    directory = add_adapter(tmp_path / "a")
    (directory / "adapter_config.json").write_bytes(config)
    message = refused(directory, tmp_path / "out")
    assert "an adapter" in message
    assert message.isprintable()
    assert len(message) < 1000


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight",
        "model.layers.0.self_attn.q_proj.lora_magnitude_vector",
        "model.layers.0.self_attn.q_proj.base_layer.weight",
        "model.embed_tokens.lora_embedding_A.default",
        "lm_head.modules_to_save.default.weight",
        "lm_head.original_module.weight",
        "model.layers.0.mlp.c_fc.ia3_l",
        "model.layers.0.mlp.c_fc.hada_w1_a",
        "model.layers.0.mlp.c_fc.lokr_w2.default",
        "model.layers.0.mlp.c_fc.vera_lambda_b",
        "model.layers.0.mlp.c_fc.oft_R.default.weight",
        "prompt_encoder.default.embedding.weight",
        "prompt_embeddings",
    ],
)
def test_tensors_of_an_adapter_in_a_model_are_named(make_checkpoint: Make, name: str) -> None:
    directory = make_checkpoint(
        edit=lambda tensors: tensors.update({name: np.zeros(4, np.float32)})
    )
    with pytest.raises(
        TensorError, match=r"tensors of an adapter \(.*\), which is not merged"
    ) as caught:
        Checkpoint.open(directory)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.bin", "adapter_model.safetensors"]
)
def test_one_in_a_folder_of_the_checkpoint_is_told_of(
    make_checkpoint: Make, tmp_path: Path, name: str
) -> None:
    directory = make_checkpoint()
    (directory / "plain").mkdir()
    (directory / "ad\x1bapter").mkdir()
    (directory / "ad\x1bapter" / name).write_text("{}")
    with pytest.warns(
        UserWarning,
        match=r"'ad\\x1bapter' in the checkpoint holds an adapter of .*no part of the export",
    ):
        export(directory, tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["adapter_0.pt", "lora.safetensors", "lora_weights.bin", "code_adapter.safetensors"]
)
def test_files_of_other_tools_beside_a_model_are_refused(
    make_checkpoint: Make, tmp_path: Path, name: str
) -> None:
    directory = make_checkpoint()
    (directory / name).write_bytes(b"")
    assert f"beside its model ({name})" in refused(directory, tmp_path / "out")
