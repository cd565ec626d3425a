"""The configurations of bigcode's StarCoder2 checkpoints, for what can be
said before one is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

_COMMON: Final[Mapping[str, Any]] = {
    "architectures": ["Starcoder2ForCausalLM"],
    "model_type": "starcoder2",
    "vocab_size": 49152,
    "hidden_act": "gelu_pytorch_tanh",
    "initializer_range": 0.018042,
    "max_position_embeddings": 16384,
    "norm_epsilon": 1e-05,
    "norm_type": "layer_norm",
    "mlp_type": "default",
    "sliding_window": 4096,
    "use_bias": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "torch_dtype": "bfloat16",
}

SHAPES: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "3b": {
            **_COMMON,
            "hidden_size": 3072,
            "intermediate_size": 12288,
            "num_hidden_layers": 30,
            "num_attention_heads": 24,
            "num_key_value_heads": 2,
            "rope_theta": 999999.4420358813,
        },
        "7b": {
            **_COMMON,
            "hidden_size": 4608,
            "intermediate_size": 18432,
            "num_hidden_layers": 32,
            "num_attention_heads": 36,
            "num_key_value_heads": 4,
            "rope_theta": 1000000,
        },
        "15b": {
            **_COMMON,
            "hidden_size": 6144,
            "intermediate_size": 24576,
            "num_hidden_layers": 40,
            "num_attention_heads": 48,
            "num_key_value_heads": 4,
            "rope_theta": 100000,
            # it alone has a head of its own: 15,957,889,024 parameters
            "tie_word_embeddings": False,
        },
    }
)
"""``config.json`` of ``bigcode/starcoder2-3b``, ``-7b`` and ``-15b``, by size."""
