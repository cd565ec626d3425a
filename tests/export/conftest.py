"""Tiny StarCoder2 checkpoints of random numbers, made with numpy alone: names and shapes are
written out here, not taken from the exporter.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

from sc2onnx.bundle.manifest import Manifest
from sc2onnx.export import export
from sc2onnx.export.progress import Silent

SETTINGS: Mapping[str, Any] = {
    "architectures": ["Starcoder2ForCausalLM"],
    "model_type": "starcoder2",
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 64,
    "norm_epsilon": 1e-5,
    "rope_theta": 10000.0,
    "sliding_window": 5,
    "use_bias": True,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}

TOKENIZER: Mapping[str, Any] = {
    "added_tokens": [
        {
            "id": 0,
            "content": "<|endoftext|>",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
    ],
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
    "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
    "model": {"type": "BPE", "vocab": {"<|endoftext|>": 0, "a": 1, "f": 2}, "merges": []},
}
"""A tokenizer for a vocabulary of 32: it has no tokens for most text."""

Tensors = dict[str, npt.NDArray[Any]]


def _random_tensors(settings: Mapping[str, Any], seed: int = 0) -> Tensors:
    """Float32, large enough that attention is sharp and every bias and norm matters."""
    hidden, inner, heads = (
        settings["hidden_size"],
        settings["intermediate_size"],
        settings["num_attention_heads"],
    )
    head_dim = settings.get("head_dim") or hidden // heads
    query, kv = heads * head_dim, settings["num_key_value_heads"] * head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (settings["vocab_size"], hidden)
    }
    for layer in range(settings["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for name, out, into in (
            ("self_attn.q_proj", query, hidden),
            ("self_attn.k_proj", kv, hidden),
            ("self_attn.v_proj", kv, hidden),
            ("self_attn.o_proj", hidden, query),
            ("mlp.c_fc", inner, hidden),
            ("mlp.c_proj", hidden, inner),
        ):
            shapes[f"{prefix}.{name}.weight"] = (out, into)
            if settings["use_bias"]:
                shapes[f"{prefix}.{name}.bias"] = (out,)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes |= {f"{prefix}.{name}.weight": (hidden,), f"{prefix}.{name}.bias": (hidden,)}
    shapes |= {"model.norm.weight": (hidden,), "model.norm.bias": (hidden,)}
    if not settings["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (settings["vocab_size"], hidden)
    random = np.random.default_rng(seed)
    return {
        name: (
            random.standard_normal(shape) * (1.5 / np.sqrt(prod(shape[1:])))
            if len(shape) > 1
            else 0.7 + random.standard_normal(shape) / 3
        ).astype(np.float32)
        for name, shape in shapes.items()
    }


def _write_checkpoint(
    directory: Path,
    changes: Mapping[str, Any] | None = None,
    *,
    dtype: Any = np.float32,
    shards: int = 0,
    edit: Callable[[Tensors], object] | None = None,
    tokenizer: bool = True,
) -> Path:
    """``changes`` to ``SETTINGS`` (``...`` removes one), ``edit`` of the tensors before they are
    saved; no ``shards``: a single file.
    """
    settings = {
        name: value for name, value in {**SETTINGS, **(changes or {})}.items() if value is not ...
    }
    tensors = {
        name: array.astype(dtype)
        for name, array in _random_tensors({**SETTINGS, **settings}).items()
    }
    if edit is not None:
        edit(tensors)
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(settings))
    if tokenizer:
        (directory / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    if not shards:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return directory
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {
            name: array
            for number, (name, array) in enumerate(tensors.items())
            if number % shards == shard
        }
        save_file(part, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {
        "metadata": {"total_size": sum(array.nbytes for array in tensors.values())},
        "weight_map": weight_map,
    }
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


@pytest.fixture
def settings() -> dict[str, Any]:
    """``config.json`` of the tiny checkpoints, to be changed at will."""
    return dict(SETTINGS)


@pytest.fixture(scope="session")
def tiny_settings() -> Mapping[str, Any]:
    """``config.json`` of ``tiny_checkpoint``, not to be changed."""
    return SETTINGS


@pytest.fixture(scope="session")
def random_tensors() -> Callable[..., Tensors]:
    """``random_tensors(settings)``: the float32 tensors that a checkpoint with these settings is
    made of, always the same.
    """
    return _random_tensors


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """``make_checkpoint(changes, dtype=, shards=, edit=, tokenizer=, name=)`` writes a checkpoint
    and returns its directory.
    """

    def make(
        changes: Mapping[str, Any] | None = None, *, name: str = "checkpoint", **options: Any
    ) -> Path:
        return _write_checkpoint(tmp_path / name, changes, **options)

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    return _write_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path) -> Path:
    """Not to be written to."""
    export(tiny_checkpoint, out := tiny_checkpoint.parent / "bundle")
    return out


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes | None]]:
    """``contents(directory)``: every path below it, hidden ones too,
    with the bytes of the files.
    """

    def read(directory: Path) -> dict[str, bytes | None]:
        return {
            str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
            for path in sorted(directory.rglob("*"))
        }

    return read


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty directory to write in."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.fixture
def old(place: Path, tiny_bundle: Path) -> Path:
    """A bundle at ``place / "bundle"`` that is told from a new one by its card."""
    shutil.copytree(tiny_bundle, place / "bundle")
    (place / "bundle" / "README.md").write_text("old")
    return place / "bundle"


@pytest.fixture(scope="session")
def assert_new_and_alone() -> Callable[[Path], None]:
    """``assert_new_and_alone(out)``: a bundle that was just made, with nothing beside it."""

    def check(out: Path) -> None:
        assert Manifest.read(out).model.num_layers == 2
        assert (out / "README.md").read_text() != "old"
        assert [path.name for path in out.parent.iterdir()] == [out.name]

    return check


@pytest.fixture(params=["directory", "hidden", "file", "broken link", "link to a bundle"])
def make_foreign(
    request: pytest.FixtureRequest, place: Path, tiny_bundle: Path
) -> Callable[[], None]:
    """``make_foreign()`` puts something at ``place / "bundle"`` that must survive."""
    out = place / "bundle"

    def make() -> None:
        if request.param == "directory":
            out.mkdir()
            (out / "thesis.tex").write_text("precious")
        elif request.param == "hidden":
            (out / ".git").mkdir(parents=True)
        elif request.param == "file":
            out.write_text("precious")
        elif request.param == "broken link":
            out.symlink_to(place / "absent")
        else:
            shutil.copytree(tiny_bundle, place / "elsewhere")
            out.symlink_to(place / "elsewhere")

    return make


class _During(Silent):
    def __init__(self, action: Callable[[], object]) -> None:
        self.left, self.action = 3, action

    def advance(self, nbytes: int) -> None:
        self.left -= 1
        if self.left == 0:
            self.action()


@pytest.fixture(scope="session")
def during() -> Callable[[Callable[[], object]], Silent]:
    """``progress=during(action)`` calls the action once, in the middle of the weights."""
    return _During


@pytest.fixture
def start_slow_export() -> Callable[..., subprocess.Popen[str]]:
    """``start_slow_export(checkpoint, out, *options)``: the command line in another process, held
    in the middle of the weights.

    Returns once the first weight is out. The process would go on after a minute.
    """
    script = """
import sys, time
from sc2onnx.cli.main import main
from sc2onnx.export import progress

class Slow(progress.Silent):
    reported = 0
    def advance(self, nbytes):
        self.reported += 1
        if self.reported == 3:
            print("in the middle", flush=True)
            time.sleep(60)

progress.for_stream = Slow
raise SystemExit(main(["export", "--precision", "fp32", *sys.argv[1:]]))
"""

    def start(checkpoint: Path, out: Path, *options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(checkpoint), str(out), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        if process.stdout.readline() != "in the middle\n":
            pytest.fail(f"the export ended early: {process.communicate()[1]}")
        return process

    return start
