"""Adapters of the tiny checkpoints, made with numpy alone: names and shapes are those that peft
writes, not taken from the exporter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

Tensors = dict[str, npt.NDArray[Any]]
SIZES = {"q_proj": (16, 16), "k_proj": (8, 16), "v_proj": (8, 16), "o_proj": (16, 16)}
SIZES |= {"c_fc": (40, 16), "c_proj": (16, 40)}
"""(out, in) of the products of a tiny checkpoint."""

CONFIG: dict[str, Any] = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 3,
    "target_modules": ["q_proj"], "base_model_name_or_path": "someone/base",
}  # fmt: skip


def name_in(layer: int, product: str) -> str:
    room = "mlp" if product.startswith("c_") else "self_attn"
    return f"base_model.model.model.layers.{layer}.{room}.{product}"


def low_rank(
    products: Iterable[str] = ("q_proj",), rank: int = 2, layers: Iterable[int] = (0, 1)
) -> Tensors:
    random, made = np.random.default_rng(7), Tensors()
    for layer in layers:
        for product in products:
            rows, columns = SIZES[product]
            for part, shape in (("A", (rank, columns)), ("B", (rows, rank))):
                name = f"{name_in(layer, product)}.lora_{part}.weight"
                made[name] = random.standard_normal(shape).astype(np.float32)
    return made


@pytest.fixture
def make_adapter(tmp_path: Path) -> Callable[..., Path]:
    """``make_adapter(changes, tensors=, name=)`` writes an adapter and returns its directory.

    ``changes`` to ``CONFIG``; ``tensors``: products of rank 2 at every ``q_proj`` by default.
    """

    def make(
        changes: dict[str, Any] | None = None, tensors: Tensors | None = None, name: str = "it"
    ) -> Path:
        directory = tmp_path / name
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "adapter_config.json").write_text(json.dumps(CONFIG | (changes or {})))
        save_file(low_rank() if tensors is None else tensors, directory / WEIGHTS)
        return directory

    return make


WEIGHTS = "adapter_model.safetensors"
