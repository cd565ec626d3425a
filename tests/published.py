"""``config.json`` of every published StarCoder2, key for key, and
reduced to what a test computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_COMMON: Final[Mapping[str, Any]] = {
    "architectures": ["Starcoder2ForCausalLM"],
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 16384,
    "mlp_type": "default",
    "model_type": "starcoder2",
    "norm_epsilon": 1e-05,
    "norm_type": "layer_norm",
    "sliding_window": 4096,
    "use_bias": True,
    "use_cache": True,
    "vocab_size": 49152,
}

_FIFTEEN_B: Final[Mapping[str, Any]] = {
    **_COMMON,
    "_name_or_path": "/some/where/15b/config.json",
    "attention_dropout": 0.0,
    "hidden_size": 6144,
    "initializer_range": 0.01275,
    "intermediate_size": 24576,
    "num_attention_heads": 48,
    "num_hidden_layers": 40,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-05,
    "rope_theta": 100000,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.37.0.dev0",
}

PUBLISHED: Final[Mapping[str, Mapping[str, Any]]] = {
    "3b": {
        **_COMMON,
        "attention_dropout": 0.1,
        "embedding_dropout": 0.1,
        "residual_dropout": 0.1,
        "hidden_size": 3072,
        "initializer_range": 0.018042,
        "intermediate_size": 12288,
        "num_attention_heads": 24,
        "num_hidden_layers": 30,
        "num_key_value_heads": 2,
        "rope_theta": 999999.4420358813,
        "torch_dtype": "float32",
        "transformers_version": "4.37.0.dev0",
    },
    "7b": {
        **_COMMON,
        "attention_dropout": 0.1,
        "embedding_dropout": 0.1,
        "residual_dropout": 0.1,
        "hidden_size": 4608,
        "initializer_range": 0.018042,
        "intermediate_size": 18432,
        "num_attention_heads": 36,
        "num_hidden_layers": 32,
        "num_key_value_heads": 4,
        "rope_theta": 1000000,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.37.0.dev0",
    },
    "15b": _FIFTEEN_B,
    "15b-instruct": {
        **_FIFTEEN_B,
        "_name_or_path": "bigcode/starcoder2-15b",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.39.0.dev0",
        "use_cache": False,
    },
}
"""Numbers of the models as they are public; the instruct model is the 15B, trained on."""

PARAMETERS: Final = {
    "3b": 3_030_371_328,
    "7b": 7_173_923_840,
    "15b": 15_957_889_024,
    "15b-instruct": 15_957_889_024,
}


def reduced(name: str) -> dict[str, Any]:
    """The configuration with 2 layers, heads of 8 channels and 512
    tokens, all else as published.
    """
    hidden = 8 * PUBLISHED[name]["num_attention_heads"]
    small = {"intermediate_size": 4 * hidden, "num_hidden_layers": 2, "vocab_size": 512}
    return {**PUBLISHED[name], "hidden_size": hidden, **small}
