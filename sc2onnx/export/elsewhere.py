"""What a directory without a model has in its place, and how to come from there to a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Final

from sc2onnx.export.shown import name_of

_MOST_ENTRIES: Final = 10_000

_KINDS: Final[Mapping[str, str]] = {
    ("model-*-of-*.safetensors"): (
        "shards without their index: download model.safetensors.index.json too"
    ),
    "consolidated*.safetensors": "weights in another layout: use the ones that transformers loads",
    "*.safetensors": "rename it to model.safetensors if it holds the whole model",
    "*.gguf": "a model for llama.cpp: export the checkpoint that it was made from",
    ("zero_to_fp32.py"): (
        "parts of DeepSpeed's: python zero_to_fp32.py DIR OUT --safe_serialization, and export OUT"
    ),
    ("global_step*"): (
        "parts of DeepSpeed's: merge them with its zero_to_fp32.py --safe_serialization"
    ),
    "pytorch_model_fsdp*": "parts of FSDP's: merge them with `accelerate merge-weights`",
    "*.distcp": "parts of FSDP's: merge them with `accelerate merge-weights`",
    "flax_model*.msgpack": "weights of Flax: load them in transformers 4, and save_pretrained",
    "tf_model*.h5": "weights of TensorFlow: load them in transformers 4, and save_pretrained",
    "*.onnx": "a model that was exported already",
}
"""Names by pattern, and what to do about them; the first that fits is told of."""


def found_instead(directory: Path) -> str:
    """A clause about other forms of a model in the directory, or checkpoints in its folders.

    It begins with ``"; "``, and is empty if there is none of these.
    """
    names = sorted(path.name for path in islice(directory.iterdir(), _MOST_ENTRIES))
    for pattern, remedy in _KINDS.items():
        if found := [name for name in names if fnmatchcase(name, pattern)]:
            return f"; it has {name_of(found[0])}, {remedy}"
    for name in names:
        if (directory / name / "config.json").is_file():
            return f"; there is a checkpoint in {name_of(name)}: give that directory"
    return ""
