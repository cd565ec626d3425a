"""Settings of config.json: read, of one value only, of no effect, or unknown and vouched for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.model_card import render
from sc2onnx.errors import RequestError, UnsupportedModelError
from sc2onnx.export import export
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.estimate import estimates, facts
from tests.published import PARAMETERS, PUBLISHED

Make = Callable[..., Path]
Settings = dict[str, Any]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_is_read_in_full(name: str) -> None:
    raw = PUBLISHED[name]
    config = Starcoder2Config.from_dict(raw)
    assert facts(config).parameters == PARAMETERS[name]
    assert config.head_dim == 128
    assert config.tie_word_embeddings is raw.get("tie_word_embeddings", True)
    for field in ("hidden_size", "num_hidden_layers", "rope_theta", "sliding_window"):
        assert getattr(config, field) == raw[field]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_is_enough_for_a_plan(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[name]))
    ahead = estimates(str(tmp_path))
    assert facts(ahead.config).parameters == PARAMETERS[name]
    assert ahead.of_variants[0].weights >= 4 * PARAMETERS[name]
    assert ahead.refused == {}


HARMLESS: list[Settings] = [
    {"rms_norm_eps": 1e-5, "pretraining_tp": 1, "attention_bias": False, "mlp_bias": False},
    {"_attn_implementation": "flash_attention_2", "_commit_hash": "0a1b", "_anything": [1, 2]},
    {"use_flash_attention_2": True, "attn_implementation": "sdpa", "use_sdpa": False},
    {"gradient_checkpointing": True, "max_seq_length": 4096, "loss_type": "ForCausalLM", "seed": 3},
    {"model_max_length": 16384, "pad_token": "<pad>", "padding_side": "left", "unk_token_id": 0},
    {"unsloth_version": "2025.1", "unsloth_fixed": True, "peft_config": {}, "axolotl_version": 1},
    {"llamafactory_version": "0.9", "trl_version": "0.12", "deepspeed": {}, "mlx_version": "0.2"},
    {"awq_note": "x", "transformers.js_config": {"dtype": "q4"}, "optimum_version": "1"},
    {"cache_implementation": "static", "cache_config": {}, "max_cache_len": 9, "use_cache": False},
    {"tie_last_hidden_states": False, "base_model_tp_plan": {}, "experts_implementation": "eager"},
    {"num_labels": 2, "id2label": {"0": "A"}, "finetuning_task": "x", "name_or_path": "x"},
    {"multi_query": True, "inference_runner": 0, "attention_softmax_in_fp32": True},
    {"n_head": 4, "n_layer": 2, "n_embd": 16, "n_inner": 40, "n_positions": 64, "norm_eps": 1e-5},
    {"partial_rotary_factor": 1.0, "use_parallel_residual": False, "per_layer_config": {}},
    {"transformers_weights": "model.safetensors", "is_decoder": True},
    {"quantization_config": None, "something_new": None},
    {"quantization_config": {}},
    {"d_model": 16, "n_heads": 4, "num_layers": 2, "n_kv_heads": 2, "ffn_dim": 40, "rotary_dim": 4},
    {"rope_base": 10000.0, "rotary_pct": 1.0, "qkv_bias": True, "padded_vocab_size": 32},
    {"parallel_attn": False, "qk_layernorm": False, "num_local_experts": 0, "logits_scaling": 1.0},
    {"original_max_position_embeddings": 4096, "output_router_logits": False, "init_std": 0.02},
    {"learning_rate": 1e-5, "weight_decay": 0.1, "bf16": True, "lora_alpha": 16, "ddp_timeout": 1},
    {"use_liger_kernel": True, "attn_implementation_autoset": True, "merge_config": {}},
    {"rope_scaling": {}},
    {"rope_scaling": {"type": "default", "factor": 1.0, "original_max_position_embeddings": 9}},
    {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1.0, "beta_fast": None}},
]


@pytest.mark.parametrize("extra", HARMLESS, ids=lambda extra: next(iter(extra)))
def test_what_changes_nothing_is_accepted(settings: Settings, extra: Settings) -> None:
    assert Starcoder2Config.from_dict({**settings, **extra}) == Starcoder2Config.from_dict(settings)


def test_every_parameter_of_generation_may_stand_in_it(settings: Settings) -> None:
    generation = pytest.importorskip("transformers").GenerationConfig()
    read = Starcoder2Config.from_dict(settings)
    for name in vars(generation):
        if name not in ("use_cache", "eos_token_id", "bos_token_id"):
            assert Starcoder2Config.from_dict({**settings, name: 7}) == read


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("quantization_config", {"quant_method": "awq", "bits": 4}),
        ("quantization", {"group_size": 64, "bits": 4}),
        ("compression_config", {"format": "pack-quantized"}),
    ],
)
def test_packed_weights_are_refused_with_the_remedy(
    settings: Settings, name: str, value: Any
) -> None:
    message = rf"{name} is \{{.*, expected null \(its weights are packed: give the one in floats"
    with pytest.raises(UnsupportedModelError, match=message):
        Starcoder2Config.from_dict({**settings, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("per_layer_config", {"1": {"sliding_window": None}}),
        ("transformers_weights", "adapter_model.safetensors"),
        ("partial_rotary_factor", 0.5),
        ("use_parallel_residual", True),
        ("use_rope", False),
        ("alibi", True),
        ("use_qk_norm", True),
        ("n_head", 5),
        ("layer_norm_eps", 1e-6),
        ("scale_attn_by_inverse_layer_idx", True),
        ("d_model", 15),
        ("num_kv_heads", 4),
        ("rope_base", 500000.0),
        ("rotary_pct", 0.25),
        ("qkv_bias", False),
        ("logit_scale", 0.0625),
        ("residual_multiplier", 0.22),
        ("num_local_experts", 8),
        ("parallel_attn", True),
        ("rope_scaling", {"type": "default", "factor": 2.0}),
        ("rope_parameters", {"rope_type": "default", "partial_rotary_factor": 0.5}),
    ],
)
def test_what_another_computation_needs_is_refused(
    settings: Settings, name: str, value: Any
) -> None:
    with pytest.raises(UnsupportedModelError, match=f"{name} is "):
        Starcoder2Config.from_dict({**settings, name: value})


SLIDING, FULL = "sliding_attention", "full_attention"


@pytest.mark.parametrize(
    ("window", "extra"),
    [
        (5, {"layer_types": [SLIDING, SLIDING]}),
        (None, {"layer_types": [FULL, FULL]}),
        (None, {"layer_types": ["attention", "attention"]}),  # transformers renames it
        (64, {"layer_types": [FULL, SLIDING]}),  # a window as large as the context is none
        (64, {"use_sliding_window": False, "max_window_layers": 1}),
        (5, {"use_sliding_window": True, "max_window_layers": 0}),
        (5, {"max_window_layers": 2}),
        (None, {"use_sliding_window": False, "max_window_layers": 28}),
        (None, {"use_sliding_window": None, "layer_types": None}),
    ],
)
def test_what_says_the_same_as_the_window_is_accepted(
    settings: Settings, window: Any, extra: Settings
) -> None:
    settings["sliding_window"] = window
    assert Starcoder2Config.from_dict({**settings, **extra}).sliding_window == window


@pytest.mark.parametrize(
    ("window", "extra"),
    [
        (5, {"layer_types": [SLIDING, FULL]}),
        (5, {"layer_types": [FULL, FULL]}),
        (None, {"layer_types": [SLIDING, SLIDING]}),
        (None, {"layer_types": [FULL]}),
        (None, {"layer_types": [FULL, FULL, FULL]}),
        (None, {"layer_types": [FULL, "linear_attention"]}),
        (None, {"layer_types": FULL}),
        (None, {"layer_types": [FULL, [FULL]]}),
        (5, {"use_sliding_window": False}),
        (None, {"use_sliding_window": True}),
        (5, {"use_sliding_window": "yes"}),
        (5, {"max_window_layers": 1}),
        (5, {"max_window_layers": "all"}),
    ],
)
def test_what_contradicts_the_window_is_refused(
    settings: Settings, window: Any, extra: Settings
) -> None:
    (name,) = extra
    with pytest.raises(UnsupportedModelError, match=f"{name} is .*, as sliding_window says"):
        Starcoder2Config.from_dict({**settings, "sliding_window": window, **extra})


def test_everything_that_is_wrong_is_said_at_once(settings: Settings) -> None:
    wrong = {
        "hidden_act": "relu",
        "norm_type": "rms_norm",
        "zeta": 1,
        "alpha": 2,
        "use_rope": False,
    }
    with pytest.raises(UnsupportedModelError) as caught:
        Starcoder2Config.from_dict({**settings, **wrong, "rope_scaling": {"type": "linear"}})
    message = str(caught.value)
    for part in ("hidden_act is 'relu'", "norm_type is 'rms_norm'", "use_rope is False"):
        assert part in message
    assert "rope_scaling.rope_type is 'linear'" in message
    assert "unknown setting alpha=2, zeta=1, expected" in message
    assert "--allow-setting KEY" in message
    assert "\n" not in message


def test_what_a_stranger_wrote_is_cut_and_printable(settings: Settings) -> None:
    long = {f"k{number}": "x" * 1000 for number in range(1000)}
    with pytest.raises(UnsupportedModelError) as caught:
        Starcoder2Config.from_dict(
            {**settings, **long, "\x1b[2J" + "y" * 10_000: 1, "hidden_act": "z" * 10_000}
        )
    assert len(str(caught.value)) < 4000
    assert str(caught.value).isprintable()
    assert "and 981 more" in str(caught.value)


def test_an_unknown_setting_may_be_vouched_for(settings: Settings) -> None:
    raw = {**settings, "alpha": 2, "beta": 3}
    assert Starcoder2Config.from_dict(raw, ["alpha", "beta"]) == Starcoder2Config.from_dict(
        settings
    )
    with pytest.raises(UnsupportedModelError, match=r"unknown setting beta=3, expected"):
        Starcoder2Config.from_dict(raw, ("alpha",))


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        (["absent"], r"--allow-setting absent is not in config\.json"),
        (["hidden_size"], r"--allow-setting hidden_size: that setting is checked"),
        (["norm_type"], r"--allow-setting norm_type: that setting is checked"),
        (["quantization_config"], r"--allow-setting quantization_config: that setting is checked"),
        (["alpha", "rope_scaling"], r"--allow-setting rope_scaling: that setting is checked"),
        ("alpha", r"allow_settings is 'alpha', expected a tuple of names"),
        ([7], r"allow_settings is \[7\], expected a tuple of names"),
    ],
)
def test_nobody_can_vouch_for_what_is_checked_or_not_there(
    settings: Settings, allowed: Any, message: str
) -> None:
    raw = {
        **settings,
        "alpha": 2,
        "norm_type": "x",
        "quantization_config": {},
        "rope_scaling": None,
    }
    with pytest.raises(RequestError, match=message):
        Starcoder2Config.from_dict(raw, allowed)


def test_what_was_vouched_for_is_recorded(make_checkpoint: Make, tmp_path: Path) -> None:
    checkpoint = make_checkpoint({"alpha|x": 2, "seed": 1})
    with pytest.raises(UnsupportedModelError, match=re.escape("unknown setting alpha|x=2")):
        export(checkpoint, tmp_path / "out")
    written = export(checkpoint, tmp_path / "out", allow_settings=("alpha|x", "seed", "alpha|x"))
    assert written.provenance.allowed_settings == ("alpha|x",)
    assert Manifest.read(tmp_path / "out") == written
    assert r"vouched for at export | alpha\|x |" in (tmp_path / "out" / "README.md").read_text()


def test_a_name_that_was_vouched_for_formats_nothing(tiny_bundle: Path) -> None:
    written = Manifest.read(tiny_bundle)
    evil = "x\n---\nlicense: mit\n| a | `b` <script> \x1b[2J"
    origins = [replace(written.provenance, allowed_settings=(name,)) for name in ("x", evil)]
    plain, card = (render(replace(written, provenance=origin)) for origin in origins)
    assert len(card.splitlines()) == len(plain.splitlines())
    assert "\x1b" not in card
    assert r"\| a \| \`b\` \<script\>" in card


def test_nothing_is_said_where_nothing_was_vouched_for(tiny_bundle: Path) -> None:
    assert "vouched" not in (tiny_bundle / "README.md").read_text()
    raw = json.loads((tiny_bundle / "sc2onnx.json").read_text())
    assert raw["provenance"].pop("allowed_settings") == []
    assert Manifest.from_json(json.dumps(raw)).provenance.allowed_settings == ()  # of earlier ones


def test_a_plan_takes_the_same_word(make_checkpoint: Make) -> None:
    checkpoint = str(make_checkpoint({"alpha": 2}))
    with pytest.raises(UnsupportedModelError, match="unknown setting alpha=2"):
        estimates(checkpoint)
    assert estimates(checkpoint, allow_settings=("alpha",)).config.num_hidden_layers == 2
    with pytest.raises(RequestError, match="--allow-setting alpha is not in config"):
        estimates(None, "3b", allow_settings=("alpha",))
