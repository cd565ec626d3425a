"""Random-weight checkpoints that cover what a StarCoder2 may be: small, but
with attention that matters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import Starcoder2Config, Starcoder2ForCausalLM

CONTEXT = 640


@dataclass(frozen=True)
class Shape:
    """Configuration beside the defaults below, and how the checkpoint is stored."""

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    shard: str = "5GB"
    # changes to config.json after saving; None removes a key
    edit: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "sliding_window": 7,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "rope_theta": 10000.0,
}

SHAPES = [
    Shape("window of 1", {"sliding_window": 1}),
    Shape("window of 7"),
    Shape("window of 64", {"sliding_window": 64}),
    Shape("no window", {"sliding_window": None}),
    Shape("window as large as the context", {"sliding_window": CONTEXT}),
    Shape("one key-value head", {"num_key_value_heads": 1, "sliding_window": 64}),
    Shape("as many key-value heads as heads", {"num_key_value_heads": 4}),
    Shape(
        "groups of 12, head size 64",
        {
            "hidden_size": 768,
            "num_attention_heads": 12,
            "num_key_value_heads": 1,
            "sliding_window": 64,
        },
    ),
    Shape(
        "head size 128",
        {
            "hidden_size": 256,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "sliding_window": 64,
        },
    ),
    Shape(
        "three groups of two, odd sizes",
        {
            "hidden_size": 72,
            "intermediate_size": 101,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
        },
    ),
    Shape("separate head", {"tie_word_embeddings": False}),
    Shape("no biases", {"use_bias": False, "sliding_window": 64}),
    Shape(
        "no biases, separate head, no window",
        {"use_bias": False, "tie_word_embeddings": False, "sliding_window": None},
    ),
    Shape("exact GELU", {"hidden_act": "gelu"}),
    Shape("wide epsilon, one layer", {"norm_epsilon": 1e-2, "num_hidden_layers": 1}),
    Shape("stored as bf16 in shards", {"sliding_window": 64}, dtype=torch.bfloat16, shard="40KB"),
    Shape("stored as fp16", {}, dtype=torch.float16),
    Shape(
        "rope_theta at the top level",
        edit={"rope_parameters": None, "rope_scaling": None, "rope_theta": 999999.4420358813},
    ),
    Shape(
        "rope_theta in rope_parameters",
        edit={"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rope_theta": None},
    ),
]


def make(shape: Shape, out: Path) -> Path:
    """Save a checkpoint with random weights, norms and biases, spread so that logits and
    attention are far from uniform.
    """
    settings = {**DEFAULTS, **shape.config}
    theta = settings.pop("rope_theta")
    config = Starcoder2Config(**settings)
    config.rope_theta = theta
    if getattr(config, "rope_parameters", None) is not None:
        config.rope_parameters = {"rope_type": "default", "rope_theta": theta}
    torch.manual_seed(0)
    model = Starcoder2ForCausalLM(config)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if "norm" in name and name.endswith("weight"):
                parameter.normal_(1.0, 0.2)
            elif parameter.dim() < 2:
                parameter.normal_(0.0, 0.2)
            else:
                parameter.normal_(0.0, 1.5 * parameter.shape[1] ** -0.5)
    torch.nn.Module.to(model, shape.dtype)
    model.save_pretrained(out, max_shard_size=shape.shard)
    path = out / "config.json"
    raw = json.loads(path.read_text())
    raw.update(shape.edit)
    path.write_text(
        json.dumps(
            {key: value for key, value in raw.items() if not (key in shape.edit and value is None)}
        )
    )
    return out
