"""Makes a StarCoder2 checkpoint of a full-size shape with random weights, in the layout of the hub:
for measuring, not for talking.

    python benchmarks/make_checkpoint.py 3b OUT [--dtype bf16] [--shard-gb 2] [--seed 0]

Peak memory is one shard. Norms are 1 and 0, everything else is normal with the trained
models' initializer range.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.shapes import SHAPES
from sc2onnx.export.weights import checkpoint_shapes

DTYPES: dict[str, Any] = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16, "fp32": np.float32}
TOKENIZER = Path(__file__).parent.parent / "examples" / "starcoder2-mini" / "tokenizer.json"


def shards(shapes: dict[str, tuple[int, ...]], itemsize: int, limit: int) -> Iterator[list[str]]:
    """Tensor names in order, cut so that no shard exceeds ``limit`` bytes
    (unless one tensor does).
    """
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        nbytes = prod(shape) * itemsize
        if names and size + nbytes > limit:
            yield names
            names, size = [], 0
        names.append(name)
        size += nbytes
    yield names


def tensor(
    name: str, shape: tuple[int, ...], dtype: Any, random: np.random.Generator, spread: float
) -> npt.NDArray[Any]:
    """Random weights."""
    if "norm" in name:
        return np.full(shape, 1.0 if name.endswith(".weight") else 0.0, dtype=dtype)
    values = random.standard_normal(shape, dtype=np.float32)
    values *= spread
    return values.astype(dtype)


def make(shape: str, out: Path, dtype: str = "bf16", shard_gb: float = 2.0, seed: int = 0) -> None:
    """Write the checkpoint."""
    raw = dict(SHAPES[shape])
    parsed = Starcoder2Config.from_dict(raw)
    shapes = checkpoint_shapes(parsed)
    stored = np.dtype(DTYPES[dtype])
    out.mkdir(parents=True)
    random = np.random.default_rng(seed)
    parts = list(shards(shapes, stored.itemsize, int(shard_gb * 1e9)))
    weight_map = {}
    for number, names in enumerate(parts, start=1):
        file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        tensors = {
            name: tensor(name, shapes[name], stored, random, raw["initializer_range"])
            for name in names
        }
        save_file(tensors, out / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(names, file))
        print(f"{file}: {len(names)} tensors", flush=True)
    total = sum(map(prod, shapes.values())) * stored.itemsize
    (out / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)
    )
    (out / "config.json").write_text(json.dumps(raw, indent=2))
    shutil.copyfile(TOKENIZER, out / "tokenizer.json")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--shard-gb", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    make(options.shape, options.out, options.dtype, options.shard_gb, options.seed)
