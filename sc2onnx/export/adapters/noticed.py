"""Adapters (LoRA and its kin): noticed beside a model, instead of one, or inside one, and named.

A model without its adapter computes something else than who made the checkpoint saw, and
transformers loads such a directory with it: nothing is exported without it in silence.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from sc2onnx.errors import CorruptCheckpointError, TensorError, UnsupportedModelError
from sc2onnx.export.adapters.settings import KIND, MERGE
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


def refuse_adapter(directory: Path) -> None:
    """Raise :class:`UnsupportedModelError` if there are files of an adapter in the directory."""
    files = sorted(path.name for pattern in _FILES for path in directory.glob(pattern))
    if not files:
        return
    found = _described(directory)
    if (directory / "model.safetensors").exists() or (
        directory / "model.safetensors.index.json"
    ).exists():
        says = (
            f"{directory} holds {found.what} beside its model ({name_of(files[0])}), "
            "which would be left out"
        )
        model, rest = "it", "or take the adapter's files away to export the model alone"
    else:
        says = f"{directory} is {found.what} ({name_of(files[0])}), not a model"
        model, rest = found.base, f"or export {found.base} alone"
    raise UnsupportedModelError(f"{says}: {_way(found, model)}, {rest}")


def folders_with_adapters(directory: Path) -> Iterator[Path]:
    """Folders in a directory that hold files of an adapter."""
    for folder in sorted(islice(directory.glob("*/"), _MOST_FOLDERS)):
        if folder.is_dir() and any(next(folder.glob(pattern), None) for pattern in _FILES):
            yield folder


def adapters_below(directory: Path, merged: Collection[Path] = ()) -> Iterator[str]:
    """Sentences about adapters in folders of a checkpoint, which nobody loads with it, but those
    that are ``merged``.
    """
    known = {path.resolve() for path in merged}
    for folder in folders_with_adapters(directory):
        if folder.resolve() not in known:
            found = _described(folder)
            yield (
                f"{name_of(folder.name)} in the checkpoint holds {found.what}, which is no part of "
                f"the export: if it belongs to the model, {_way(found, 'it')}"
            )


def refuse_adapter_tensors(names: Iterable[str]) -> None:
    """Raise :class:`TensorError` if tensors are those of an adapter that was not merged."""
    found = (name for name in names if any(map(_SEGMENT.fullmatch, name.split("."))))
    if shown := ", ".join(map(name_of, islice(found, 3))):
        raise TensorError(
            f"the checkpoint has tensors of an adapter ({shown}), which is not merged: "
            "call merge_and_unload() of peft, save_pretrained(OUT), and export OUT"
        )


@dataclass(frozen=True, slots=True)
class _Described:
    """An adapter as its configuration describes it: ``what`` with kind and base model, its ``base``
    alone, and its ``kind``, empty if that is unknown.
    """

    what: str
    base: str
    kind: str


def _described(directory: Path) -> _Described:
    try:
        settings = read_json(directory / ADAPTER_CONFIG) or {}
    except CorruptCheckpointError:  # it is an adapter all the same
        settings = {}
    kind, base = (_text(settings.get(name)) for name in ("peft_type", "base_model_name_or_path"))
    what = f"an adapter ({kind})" if kind else "an adapter"
    return _Described(f"{what} of {base or 'an unnamed model'}", base or "its base model", kind)


def _way(found: _Described, model: str) -> str:
    """What to do to have an adapter's change in a bundle; ``model`` says whose base is meant."""
    if found.kind == KIND:
        return f"export {model} with --adapter DIR, which merges it"
    if found.kind in _PROMPTS:
        return "no weights can hold what it adds, so it cannot be exported"
    return f"merge it into {found.base}, {MERGE}, and export OUT"


def _text(value: Any) -> str:
    """What a person can read of a setting; nothing if it is no text."""
    return (
        ("" if not value else name_of(value))
        if isinstance(value, str)
        else brief(value)
        if value
        else ""
    )
