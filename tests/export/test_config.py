"""config.json: what StarCoder2 writes is read, field by field; anything else is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sc2onnx.errors import UnsupportedModelError
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.estimate import estimate, plan_ahead
from sc2onnx.export.precision import Variant

MINIMAL = {
    "model_type": "starcoder2",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}

THREE_B = {  # as of bigcode/starcoder2-3b
    "architectures": ["Starcoder2ForCausalLM"],
    "attention_dropout": 0.1,
    "bos_token_id": 0,
    "embedding_dropout": 0.1,
    "eos_token_id": 0,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 3072,
    "initializer_range": 0.018042,
    "intermediate_size": 12288,
    "max_position_embeddings": 16384,
    "mlp_type": "default",
    "model_type": "starcoder2",
    "norm_epsilon": 1e-05,
    "norm_type": "layer_norm",
    "num_attention_heads": 24,
    "num_hidden_layers": 30,
    "num_key_value_heads": 2,
    "residual_dropout": 0.1,
    "rope_theta": 999999.4420358813,
    "sliding_window": 4096,
    "torch_dtype": "float32",
    "transformers_version": "4.37.0.dev0",
    "use_bias": True,
    "use_cache": True,
    "vocab_size": 49152,
}

TRANSFORMERS_5 = {  # every key that Starcoder2Config of transformers 5 writes, defaults included
    "_name_or_path": "",
    "architectures": None,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "chunk_size_feed_forward": 0,
    "dtype": "bfloat16",
    "embedding_dropout": 0.0,
    "eos_token_id": [0, 7],
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 32,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "initializer_range": 0.018042,
    "intermediate_size": 48,
    "is_encoder_decoder": False,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "max_position_embeddings": 4096,
    "model_type": "starcoder2",
    "norm_epsilon": 1e-05,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "output_attentions": False,
    "output_hidden_states": False,
    "pad_token_id": None,
    "problem_type": None,
    "residual_dropout": 0.0,
    "return_dict": True,
    "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
    "sliding_window": None,
    "tie_word_embeddings": True,
    "transformers_version": "5.23.0",
    "use_bias": True,
    "use_cache": True,
    "vocab_size": 100,
}


def read(**changes: Any) -> Starcoder2Config:
    return Starcoder2Config.from_dict({**MINIMAL, **changes})


def test_a_silent_config_gets_the_defaults_of_transformers() -> None:
    assert read() == Starcoder2Config(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        hidden_act="gelu_pytorch_tanh",
        max_position_embeddings=4096,
        norm_epsilon=1e-5,
        rope_theta=10000.0,
        sliding_window=None,
        use_bias=True,
        tie_word_embeddings=True,
        eos_token_ids=(),
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocab_size", 7),
        ("hidden_size", 64),
        ("intermediate_size", 9),
        ("num_hidden_layers", 1),
        ("num_attention_heads", 2),
        ("num_key_value_heads", 1),
        ("head_dim", 6),
        ("hidden_act", "gelu"),
        ("max_position_embeddings", 11),
        ("norm_epsilon", 1e-6),
        ("rope_theta", 123.5),
        ("sliding_window", 3),
        ("use_bias", False),
        ("tie_word_embeddings", False),
    ],
)
def test_every_setting_that_is_written_is_read(name: str, value: Any) -> None:
    assert getattr(read(**{name: value}), name) == value != getattr(read(), name)


def test_a_head_size_of_its_own_need_not_divide_the_hidden_size() -> None:
    config = read(head_dim=6, hidden_size=33)
    assert (config.query_size, config.kv_size, config.group_size) == (24, 12, 2)


def test_the_configuration_of_starcoder2_3b() -> None:
    config = Starcoder2Config.from_dict(THREE_B)
    assert (config.head_dim, config.rope_theta, config.sliding_window) == (
        128,
        999999.4420358813,
        4096,
    )
    assert (config.use_bias, config.tie_word_embeddings, config.eos_token_ids) == (True, True, (0,))


def test_the_configuration_that_transformers_5_writes() -> None:
    config = Starcoder2Config.from_dict(TRANSFORMERS_5)
    assert (config.head_dim, config.rope_theta, config.sliding_window, config.eos_token_ids) == (
        8,
        100000.0,
        None,
        (0, 7),
    )


@pytest.mark.parametrize(
    "written",
    [
        {"rope_theta": 500.0},
        {"rope_theta": 500},
        {"rope_theta": 500.0, "rope_scaling": None},
        {"rope_theta": 500.0, "rope_parameters": None},
        {"rope_parameters": {"rope_theta": 500.0}},
        {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}},
        {"rope_scaling": {"rope_theta": 500.0, "type": "default"}},
        {"rope_theta": 500.0, "rope_scaling": {"type": "default"}},
        {"rope_theta": 500.0, "rope_scaling": {"rope_type": "default", "type": "default"}},
        {
            "rope_theta": 500.0,
            "rope_parameters": {"rope_theta": 500, "rope_type": "default"},
            "rope_scaling": {"rope_theta": 500.0},
        },
    ],
)
def test_the_rotary_base_is_read_wherever_it_is_written(written: dict[str, Any]) -> None:
    assert read(**written).rope_theta == 500.0


@pytest.mark.parametrize(
    "written",
    [
        {"rope_theta": 500.0, "rope_parameters": {"rope_theta": 501.0}},
        {"rope_theta": 500.0, "rope_scaling": {"type": "default", "rope_theta": 501.0}},
        {"rope_parameters": {"rope_theta": 500.0}, "rope_scaling": {"rope_theta": 501.0}},
    ],
)
def test_two_rotary_bases_are_refused(written: dict[str, Any]) -> None:
    with pytest.raises(
        UnsupportedModelError,
        match=r"rope_theta is \[50[01]\.0, 50[01]\.0\], expected one value wherever it is written",
    ):
        read(**written)


@pytest.mark.parametrize("field", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("key", ["type", "rope_type"])
@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "longrope", "llama3", "", None])
def test_rotary_scaling_is_refused(field: str, key: str, kind: str | None) -> None:
    with pytest.raises(
        UnsupportedModelError, match=rf"{field}.rope_type is {kind!r}, expected 'default'"
    ):
        read(**{field: {key: kind, "rope_theta": 10000.0, "factor": 2.0}})


@pytest.mark.parametrize("field", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(
    "value",
    [
        {"factor": 2.0},
        {"rope_type": "default", "factor": 2.0},
        {"rope_type": "default", "partial_rotary_factor": 0.5},
        {"rope_type": "default", "type": "linear"},
        {"rope_type": "linear", "type": "default"},
        "linear",
        ["linear"],
        2.0,
    ],
)
def test_rotary_settings_that_would_be_dropped_are_refused(field: str, value: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=field):
        read(**{field: value})


@pytest.mark.parametrize("value", [0, -1.0, "1e4", True, [10000.0], float("nan"), float("inf")])
def test_a_rotary_base_is_a_positive_number(value: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="rope_theta is "):
        read(rope_theta=value)


@pytest.mark.parametrize("value", [0, -1e-5, "1e-5", None, True, float("nan"), float("inf")])
def test_an_epsilon_is_a_positive_number(value: Any) -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"norm_epsilon is .*, expected a positive number"
    ):
        read(norm_epsilon=value)


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"model_type": None},
        {"model_type": "gpt_bigcode"},
        {"model_type": "llama"},
        {"model_type": ["starcoder2"]},
    ],
)
def test_another_model_is_refused(found: dict[str, Any]) -> None:
    raw = {name: value for name, value in MINIMAL.items() if name != "model_type"} | found
    with pytest.raises(UnsupportedModelError, match=r"model_type is .*, expected 'starcoder2'"):
        Starcoder2Config.from_dict(raw)


@pytest.mark.parametrize("name", [name for name in MINIMAL if name != "model_type"])
def test_a_size_that_is_missing_is_refused(name: str) -> None:
    raw = {key: value for key, value in MINIMAL.items() if key != name}
    with pytest.raises(
        UnsupportedModelError, match=f"{name} is 'missing', expected a positive integer"
    ):
        Starcoder2Config.from_dict(raw)


@pytest.mark.parametrize(
    "name",
    [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
    ],
)
@pytest.mark.parametrize("value", [0, -4, 4.0, True, False, "4", [4]])
def test_a_size_is_a_positive_integer(name: str, value: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"{name} is .*, expected a positive integer"):
        read(**{name: value})


@pytest.mark.parametrize("value", [0, -1, 4096.0, "4096", True, False])
def test_a_window_is_a_positive_integer_or_null(value: Any) -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"sliding_window is .*, expected a positive integer or null"
    ):
        read(sliding_window=value)


@pytest.mark.parametrize("name", ["use_bias", "tie_word_embeddings"])
@pytest.mark.parametrize("value", [0, 1, None, "true"])
def test_a_switch_is_true_or_false(name: str, value: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=f"{name} is .*, expected true or false"):
        read(**{name: value})


@pytest.mark.parametrize("value", ["relu", "silu", "quick_gelu", "", None, 1, ["gelu"]])
def test_an_unknown_activation_is_refused(value: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=r"hidden_act is .*, expected one of \["):
        read(hidden_act=value)


@pytest.mark.parametrize("name", ["gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"])
def test_the_spellings_of_gelu(name: str) -> None:
    assert read(hidden_act=name).hidden_act == name


@pytest.mark.parametrize("heads", [3, 8])
def test_key_value_heads_divide_the_heads(heads: int) -> None:
    with pytest.raises(
        UnsupportedModelError,
        match=rf"num_key_value_heads is {heads}, expected a divisor of num_attention_heads \(4\)",
    ):
        read(num_key_value_heads=heads)


def test_heads_divide_the_hidden_size() -> None:
    with pytest.raises(
        UnsupportedModelError,
        match=r"num_attention_heads is 4, expected a divisor of hidden_size \(34\)",
    ):
        read(hidden_size=34)


@pytest.mark.parametrize("changes", [{"head_dim": 5}, {"hidden_size": 20}])
def test_an_odd_head_size_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError, match="head_dim is 5, expected an even number"):
        read(**changes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("norm_type", "rms_norm"),
        ("mlp_type", "gated"),
        ("attention_type", "mla"),
        ("add_cross_attention", True),
        ("is_encoder_decoder", True),
        ("quantization_config", {"quant_method": "gptq"}),
        ("layer_types", ["full_attention", "sliding_attention", "full_attention"]),
        ("pruned_heads", {"0": [1]}),
        ("chunk_size_feed_forward", 8),
    ],
)
def test_a_setting_that_would_change_the_computation_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=f"{name} is "):
        read(**{name: value})


def test_an_unknown_setting_that_is_null_sets_nothing() -> None:
    assert read(attention_multiplier=None) == read()


@pytest.mark.parametrize(
    ("old", "same", "other"),
    [("layer_norm_epsilon", 1e-5, 1e-6), ("activation_function", "gelu_pytorch_tanh", "gelu")],
)
def test_names_from_starcoder_1_must_agree_with_the_new_ones(
    old: str, same: Any, other: Any
) -> None:
    assert read(**{old: same}) == read()
    with pytest.raises(UnsupportedModelError, match=f"{old} is {other!r}, expected the same as"):
        read(**{old: other})


def test_unknown_settings_are_refused_by_name() -> None:
    with pytest.raises(
        UnsupportedModelError,
        match=(
            r"unknown setting attention_multiplier=0\.5, query_scalar=2, expected StarCoder2's own"
        ),
    ):
        read(query_scalar=2, attention_multiplier=0.5)


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ({}, ()),
        ({"eos_token_id": None}, ()),
        ({"eos_token_id": 0}, (0,)),
        ({"eos_token_id": [3, 0]}, (3, 0)),
    ],
)
def test_end_tokens_are_a_number_or_a_list(
    written: dict[str, Any], read_as: tuple[int, ...]
) -> None:
    assert read(**written).eos_token_ids == read_as


@pytest.mark.parametrize("value", [-1, "0", 0.0, True, [0, None], [[0]], {"id": 0}])
def test_end_tokens_that_are_none_are_refused(value: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=r"eos_token_id is .*, expected token ids"):
        read(eos_token_id=value)


def test_a_number_too_large_for_a_float_is_refused() -> None:
    with pytest.raises(
        UnsupportedModelError, match="norm_epsilon is inf, expected a positive number"
    ):
        Starcoder2Config.from_dict(
            json.loads(json.dumps(MINIMAL)[:-1] + ', "norm_epsilon": 1e999}')
        )


def test_the_facts_for_the_runtime_are_those_of_the_configuration() -> None:
    facts = read(sliding_window=3, rope_theta=500, tie_word_embeddings=False, head_dim=6).facts(
        parameters=12, eos_token_ids=(1, 2)
    )
    assert (facts.architecture, facts.num_layers, facts.hidden_size, facts.intermediate_size) == (
        "starcoder2",
        3,
        32,
        48,
    )
    assert (facts.num_heads, facts.num_kv_heads, facts.head_dim, facts.vocab_size) == (4, 2, 6, 100)
    assert (facts.context_length, facts.sliding_window, facts.tied_embeddings) == (4096, 3, False)
    assert (facts.rope_theta, type(facts.rope_theta)) == (500.0, float)
    assert (facts.parameters, facts.eos_token_ids) == (12, (1, 2))


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("vocab_size", 1 << 24),
        ("hidden_size", 1 << 17),
        ("intermediate_size", 1 << 20),
        ("num_hidden_layers", 512),
        ("num_attention_heads", 1 << 12),
        ("num_key_value_heads", 1 << 12),
        ("head_dim", 1 << 12),
        ("max_position_embeddings", 1 << 22),
    ],
)
@pytest.mark.parametrize("value", [None, 10**9, 10**12, 1 << 63, 10**39])
def test_a_size_that_nobody_has_is_refused(name: str, most: int, value: int | None) -> None:
    size = most + 1 if value is None else value
    message = rf"{name} is {size}, expected a positive integer of at most {most:,}"
    with pytest.raises(UnsupportedModelError, match=message):
        read(**{name: size})


def test_the_largest_of_everything_is_planned_in_no_time() -> None:
    largest = {"hidden_size": 1 << 17, "intermediate_size": 1 << 20, "num_hidden_layers": 512}
    heads = {"num_attention_heads": 1 << 12, "num_key_value_heads": 1 << 12, "head_dim": 1 << 12}
    config = read(**largest, **heads, vocab_size=1 << 24, max_position_embeddings=1 << 22)
    ahead = estimate(plan_ahead(config, Variant("int8", "cpu")))
    assert ahead.weights > 10**15


@pytest.mark.parametrize("value", [1 << 31, 10**12, 10**39])
def test_a_window_beyond_any_index_is_refused(value: int) -> None:
    with pytest.raises(UnsupportedModelError, match=f"sliding_window is {value}, expected"):
        read(sliding_window=value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("rope_theta", 1e300), ("rope_theta", 1e-9), ("norm_epsilon", 1e-60), ("norm_epsilon", 2)],
)
def test_numbers_that_float32_does_not_survive_are_refused(name: str, value: float) -> None:
    with pytest.raises(UnsupportedModelError, match=f"{name} is .*, expected a positive number"):
        read(**{name: value})


@pytest.mark.parametrize("value", [1 << 24 | 1, 1 << 63, list(range(1000))])
def test_end_tokens_are_bounded(value: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="eos_token_id is "):
        read(eos_token_id=value)
