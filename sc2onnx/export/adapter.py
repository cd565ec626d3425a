"""Adapters (LoRA and its kin): noticed beside a model, instead of one, or inside one, and named.

A model without its adapter computes something else than who made the checkpoint saw, and
transformers loads such a directory with it: nothing is exported without it in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

from sc2onnx.errors import CorruptCheckpointError, TensorError, UnsupportedModelError
from sc2onnx.export.shown import brief, name_of
from sc2onnx.export.stored import read_json

ADAPTER_CONFIG: Final = "adapter_config.json"

_FILES: Final = (
    ADAPTER_CONFIG,
    "adapter_model.*",
    "adapter_model-*.safetensors",
    "adapters.safetensors",
    "adapters.npz",
    "pytorch_lora_weights.*",
    "adapter_[0-9]*.pt",
    "*_adapter.safetensors",
    "lora.safetensors",
    "lora_*.safetensors",
    "lora_*.bin",
    "lora_*.pt",
)
"""What peft, MLX, torchtune and others write."""

_PROMPTS: Final = frozenset(
    {
        "ADAPTION_PROMPT",
        "CPT",
        "MULTITASK_PROMPT_TUNING",
        "P_TUNING",
        "PREFIX_TUNING",
        "PROMPT_TUNING",
    }
)
"""Kinds of peft whose parameters go in front of the text: no weight of a model can hold them."""

_SEGMENT: Final = re.compile(
    r"lora_\w+|ia3_l|modules_to_save|original_module|base_layer|(?:hada|lokr|oft|boft|vera"
    r"|hra|poly)_\w+"
    r"|vblora_\w+|fourierft_\w+|ranknum|prompt_(?:encoder|embeddings|tuning)"
    r"|prefix_encoder|adapter_\w+"
)
"""Parts of the names of tensors that adapters put into a model."""

_MOST_FOLDERS: Final = 1000

_PROGRAM: Final = (
    "peft.AutoPeftModelForCausalLM.from_pretrained(DIR).merge_and_unload().save_pretrained(OUT)"
)


def refuse_adapter(directory: Path) -> None:
    """Raise :class:`UnsupportedModelError` if there are files of an adapter in the directory."""
    files = sorted(path.name for pattern in _FILES for path in directory.glob(pattern))
    if not files:
        return
    what, base, mergeable = _described(directory)
    if (directory / "model.safetensors").exists() or (
        directory / "model.safetensors.index.json"
    ).exists():
        found = (
            f"{directory} holds {what} beside its model ({name_of(files[0])}), "
            "which would be left out"
        )
        rest = "or take the adapter's files away to export the model alone"
    else:
        found = f"{directory} is {what} ({name_of(files[0])}), not a model"
        rest = f"or export {base} alone"
    if mergeable:
        raise UnsupportedModelError(
            f"{found}: merge it into {base}, {_PROGRAM}, and export OUT, {rest}"
        )
    raise UnsupportedModelError(
        f"{found}: no weights can hold what it adds, so it cannot be exported, {rest}"
    )


def adapters_below(directory: Path) -> Iterator[str]:
    """Sentences about adapters in folders of a checkpoint, which nobody loads with it."""
    for folder in sorted(islice(directory.glob("*/"), _MOST_FOLDERS)):
        if folder.is_dir() and any(next(folder.glob(pattern), None) for pattern in _FILES):
            what, base, _ = _described(folder)
            yield (
                f"{name_of(folder.name)} in the checkpoint holds {what}, which is no part of the "
                f"export: merge it into {base} first if it belongs to the model ({_PROGRAM})"
            )


def refuse_adapter_tensors(names: Iterable[str]) -> None:
    """Raise :class:`TensorError` if tensors are those of an adapter that was not merged."""
    found = (name for name in names if any(map(_SEGMENT.fullmatch, name.split("."))))
    if shown := ", ".join(map(name_of, islice(found, 3))):
        raise TensorError(
            f"the checkpoint has tensors of an adapter ({shown}), which is not merged: "
            "call merge_and_unload() of peft, save_pretrained(OUT), and export OUT"
        )


def _described(directory: Path) -> tuple[str, str, bool]:
    """The adapter with its kind and base model, the base alone, and whether it can be merged."""
    try:
        settings = read_json(directory / ADAPTER_CONFIG) or {}
    except CorruptCheckpointError:  # it is an adapter all the same
        settings = {}
    kind, base = (_text(settings.get(name)) for name in ("peft_type", "base_model_name_or_path"))
    what = f"an adapter ({kind})" if kind else "an adapter"
    return f"{what} of {base or 'an unnamed model'}", base or "its base model", kind not in _PROMPTS


def _text(value: Any) -> str:
    """What a person can read of a setting; nothing if it is no text."""
    return (
        ("" if not value else name_of(value))
        if isinstance(value, str)
        else brief(value)
        if value
        else ""
    )
