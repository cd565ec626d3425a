"""Adapters for tests, with random matrices, written by ONNX Runtime itself."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from sc2onnx.bundle.adapter_facts import AdapterFacts, module_shapes
from sc2onnx.bundle.adapters import FACTS_FILE, MATRICES_FILE, matrix_name
from sc2onnx.bundle.facts import ModelFacts

Arrays = Mapping[str, npt.NDArray[Any]]

ATTENTION = ("self_attn.q_proj", "self_attn.v_proj")
PERCEPTRON = ("mlp.c_fc", "mlp.c_proj")


def matrices(
    facts: ModelFacts, rank: int, modules: Collection[str] = (), *, seed: int = 0
) -> dict[str, npt.NDArray[Any]]:
    """Matrices of every layer's modules, by default of all, strong enough to change what a model
    says.
    """
    random, found = np.random.default_rng(seed), dict[str, npt.NDArray[Any]]()
    for layer in range(facts.num_layers):
        for module, (inputs, outputs) in module_shapes(facts).items():
            if not modules or module in modules:
                a = random.normal(size=(inputs, rank)) / np.sqrt(inputs)
                b = random.normal(size=(rank, outputs)) / np.sqrt(8 * rank)
                found[matrix_name(layer, module, "A")] = a.astype(np.float32)
                found[matrix_name(layer, module, "B")] = b.astype(np.float32)
    return found


def write(directory: Path, found: Arrays, **said: Any) -> Path:
    """A converted adapter with these matrices. ``said``: of its description, instead of what is
    right.
    """
    directory.mkdir(parents=True, exist_ok=True)
    made = ort.AdapterFormat()
    made.set_adapter_version(1)
    made.set_model_version(1)
    made.set_parameters(
        {
            name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(each))
            for name, each in found.items()
        }
    )
    made.export_adapter(str(directory / MATRICES_FILE))
    describe(directory, found, **said)
    return directory


def describe(directory: Path, found: Arrays, **said: Any) -> None:
    """Write the description of what is there."""
    data = (directory / MATRICES_FILE).read_bytes()
    right = {
        "rank": max(min(each.shape) for each in found.values()),
        "element": next(iter(found.values())).dtype.name,
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    facts = AdapterFacts(**{**right, **said})
    (directory / FACTS_FILE).write_text(facts.to_json(), encoding="utf-8")


def random_adapter(
    directory: Path, facts: ModelFacts, rank: int, modules: Collection[str] = (), *, seed: int = 0
) -> Path:
    """A converted adapter with random matrices."""
    return write(directory, matrices(facts, rank, modules, seed=seed))


def four(directory: Path, facts: ModelFacts) -> dict[str, Path]:
    """Adapters of different ranks and modules, by name."""
    kinds = {"all": (4, ()), "attention": (8, ATTENTION), "perceptron": (3, PERCEPTRON)}
    kinds["large"] = (16, ())
    return {
        name: random_adapter(directory / name, facts, rank, modules, seed=number)
        for number, (name, (rank, modules)) in enumerate(kinds.items(), 1)
    }
