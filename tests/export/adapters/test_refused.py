"""What would not be what peft computes is refused, by name, with what to do."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sc2onnx.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    RequestError,
    TensorError,
    UnsupportedModelError,
)
from sc2onnx.export import export
from tests.export.adapters.conftest import WEIGHTS, low_rank, name_in

Make = Callable[..., Path]
EMBEDDING = "base_model.model.model.embed_tokens.weight"


def refused(base: Path, out: Path, *adapters: Path, error: type[Exception]) -> str:
    with pytest.raises(error) as caught:
        export(base, out, adapters=list(adapters))
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1200
    assert not out.exists()
    return message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA', expected 'LORA'"),
        ({"peft_type": None}, "peft_type is None, expected 'LORA'"),
        ({"r": 0}, "r is 0, expected a rank"),
        ({"r": "8"}, "r is '8', expected a rank"),
        ({"lora_alpha": True}, "lora_alpha is True, expected a number"),
        ({"use_dora": "yes"}, "use_dora is 'yes', expected true or false"),
        ({"target_modules": 7}, "target_modules is 7, expected a list of names, or an expression"),
        ({"rank_pattern": {"q_proj": -1}}, "rank_pattern is .*, expected ranks by name"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', with which the base's"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "new"}, "init_lora_weights is 'new', expected one of"),
        ({"alora_invocation_tokens": [1]}, r"alora_invocation_tokens is \[1\], expected none"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is .*, expected none"),
        ({"target_parameters": ["x"]}, "target_parameters is .*, expected none"),
        ({"kasa_config": {"a": 1}}, "kasa_config is .*, expected none"),
        ({"use_new_trick": True}, "unknown setting use_new_trick=True"),
        ({"bias": "some"}, "bias is 'some', expected 'none', 'all' or 'lora_only'"),
        ({"use_dora": True, "lora_bias": True}, "use_dora and lora_bias are both true"),
        ({"target_modules": ["query"]}, r"target_modules names .*query.*, expected some of"),
        ({"target_modules": "(q_proj"}, r"'\(q_proj'.* is no regular expression"),
        ({"rank_pattern": {"x" * 5000: 4}}, "an expression of 5,000 characters"),
    ],
    ids=str,
)
def test_settings(
    make_adapter: Make, tiny_checkpoint: Path, tmp_path: Path,
    changes: dict[str, Any], expected: str,
) -> None:  # fmt: skip
    adapter = make_adapter(changes)
    message = refused(tiny_checkpoint, tmp_path / "out", adapter, error=UnsupportedModelError)
    assert re.search(expected, message), message


@pytest.mark.parametrize(
    "changes",
    [
        {"use_new_trick": False, "new_config": None, "new_pattern": {}},
        {"unsloth_fixed": True, "_private": 1, "lora_dropout": 0.1, "fan_in_fan_out": True},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False, "eva_config": {"rho": 2.0}, "revision": "main"},
    ],
    ids=str,
)
def test_settings_that_change_nothing(
    make_adapter: Make, tiny_checkpoint: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    export(tiny_checkpoint, tmp_path / "plain", adapters=[make_adapter()])
    export(tiny_checkpoint, tmp_path / "other", adapters=[make_adapter(changes, name="o")])
    data = "model.onnx.data"
    assert (tmp_path / "plain" / data).read_bytes() == (tmp_path / "other" / data).read_bytes()


def test_an_expression_that_never_ends_is_refused_soon(
    make_adapter: Make, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sc2onnx.export.adapters.patterns._SECONDS", 1.0)
    adapter, began = make_adapter({"target_modules": r"(?:[\w.]+)+!"}), time.monotonic()
    message = refused(tiny_checkpoint, tmp_path / "out", adapter, error=UnsupportedModelError)
    assert "take more than 1 s to match" in message
    assert time.monotonic() - began < 60


def vector(size: int) -> Any:
    return np.ones(size, np.float32)


@pytest.mark.parametrize(
    ("changes", "tensors", "expected"),
    [
        ({}, low_rank() | {"base_model.model.score.weight": vector(4)}, "score.weight, for which"),
        ({}, low_rank(["q_proj", "v_proj"]), r"v_proj.lora_A.weight.*, for which this model and"),
        ({}, low_rank(layers=[0, 1]) | {f"{name_in(7, 'q_proj')}.lora_A.weight": vector(2)},
         "layers.7.self_attn.q_proj.lora_A.weight, for which"),
        ({}, low_rank() | {f"{name_in(0, 'q_proj')}.lora_magnitude_vector": vector(16)},
         "lora_magnitude_vector, for which"),
        ({}, low_rank(layers=[0]), "lacks tensors model.layers.1.self_attn.q_proj.lora_B"),
        ({"use_dora": True}, low_rank(), "lacks .*lora_magnitude_vector"),
        ({"modules_to_save": ["lm_head"]}, low_rank(), "lacks tensor lm_head.weight"),
        ({"trainable_token_indices": [1]}, low_rank(), "lacks .*trainable_tokens_delta"),
        ({"r": 3}, low_rank(), r"has shape \(16, 2\), expected \(16, 3\) by rank 3"),
        ({}, low_rank() | {EMBEDDING: np.ones((32, 8), np.float32)},
         r"has shape \(32, 8\), expected \(32, 16\) by its base"),
        ({}, low_rank() | {EMBEDDING: np.ones((40, 16), np.float32),
                           "base_model.model.lm_head.weight": np.ones((41, 16), np.float32)},
         "embed_tokens.weight has 40 rows and lm_head.weight 41"),
        ({"trainable_token_indices": [99]},
         low_rank() | {f"{EMBEDDING[:-7]}.token_adapter.trainable_tokens_delta": np.ones((1, 16))
                       .astype(np.float32)}, "has 99, expected ids below 32"),
        ({}, {name: array * np.float32("nan") for name, array in low_rank().items()},
         "holds numbers that are not finite, expected finite ones: the adapter is damaged"),
        ({}, low_rank() | {f"{name_in(0, 'q_proj')}.lora_A.default.weight": np.ones((2, 16))
                           .astype(np.float32)}, "for one thing, which differ"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_tensors(
    make_adapter: Make, tiny_checkpoint: Path, tmp_path: Path,
    changes: dict[str, Any], tensors: Any, expected: str,
) -> None:  # fmt: skip
    adapter = make_adapter(changes, tensors)
    message = refused(tiny_checkpoint, tmp_path / "out", adapter, error=TensorError)
    assert re.search(expected, message), message
    if "damaged" not in expected and "rows" not in expected:
        assert message.startswith("adapter it")


def test_a_pickle(make_adapter: Make, tiny_checkpoint: Path, tmp_path: Path) -> None:
    adapter = make_adapter()
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")
    message = refused(tiny_checkpoint, tmp_path / "out", adapter, error=UnsupportedModelError)
    assert "has only adapter_model.bin, expected adapter_model.safetensors" in message
    assert "weights_only=True" in message


def test_tensors_alone(make_adapter: Make, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Without its configuration there is no scale. Beside it, the file stands for its directory."""
    adapter = make_adapter()
    export(tiny_checkpoint, tmp_path / "bundle", adapters=[adapter / WEIGHTS])
    (adapter / "adapter_config.json").unlink()
    message = refused(tiny_checkpoint, tmp_path / "out", adapter, error=CheckpointNotFoundError)
    assert "has no adapter_config.json, expected one: rank and scale stand there" in message
    other = (adapter / WEIGHTS).rename(adapter / "mine.safetensors")
    message = refused(tiny_checkpoint, tmp_path / "out", other, error=CheckpointNotFoundError)
    assert "is a file, expected the directory of an adapter" in message


def test_a_directory_of_adapters(make_adapter: Make, tiny_checkpoint: Path, tmp_path: Path) -> None:
    above = make_adapter(name="run/checkpoint-10").parent
    message = refused(tiny_checkpoint, tmp_path / "out", above, error=CheckpointError)
    assert "there is an adapter in checkpoint-10: give that directory" in message


@pytest.mark.parametrize("weight", [0, float("nan"), float("inf"), True, "1"])
def test_weights_that_are_none(
    make_adapter: Make, tiny_checkpoint: Path, tmp_path: Path, weight: Any
) -> None:
    with pytest.raises(RequestError, match=r"its weight is .*, expected a number other than 0"):
        export(tiny_checkpoint, tmp_path / "out", adapters={make_adapter(): weight})


def test_a_weight_of_whole_tensors(
    make_adapter: Make, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    whole = low_rank() | {EMBEDDING: np.ones((32, 16), np.float32)}
    with pytest.raises(RequestError, match=r"saves tensors whole \(model.embed_tokens.weight\)"):
        export(tiny_checkpoint, tmp_path / "out", adapters={make_adapter({}, whole): 0.5})


def test_adapters_that_exclude_each_other(
    make_adapter: Make, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    first, same, other = (
        make_adapter({}, low_rank() | {EMBEDDING: np.full((32, 16), value, np.float32)}, name=name)
        for name, value in (("first", 1), ("same", 1), ("other", 2))
    )
    export(tiny_checkpoint, tmp_path / "bundle", adapters=[first, same])
    message = refused(tiny_checkpoint, tmp_path / "out", first, other, error=RequestError)
    assert "adapters first and other each save model.embed_tokens.weight whole" in message


@pytest.mark.parametrize("adapters", ["it", b"it", 7, [7], None])
def test_what_is_no_list_of_adapters(tiny_checkpoint: Path, tmp_path: Path, adapters: Any) -> None:
    with pytest.raises(RequestError, match=r"adapters (is|has) .*, expected"):
        export(tiny_checkpoint, tmp_path / "out", adapters=adapters)


def test_an_adapter_that_changes_meanwhile(
    make_adapter: Make, tiny_checkpoint: Path, tmp_path: Path, during: Any
) -> None:
    adapter = make_adapter()
    config = adapter / "adapter_config.json"
    progress = during(lambda: config.write_text(json.dumps({"peft_type": "LORA", "r": 1})))
    with pytest.raises(CheckpointError, match=r"adapter_config\.json changed while it was read"):
        export(tiny_checkpoint, tmp_path / "out", adapters=[adapter], progress=progress)
