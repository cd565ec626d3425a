"""The only reader of a checkpoint's directory: its files, shards and index."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from sc2onnx.bundle.contract import plain_file_name
from sc2onnx.bundle.links import inside
from sc2onnx.bundle.merged import MergedAdapter
from sc2onnx.errors import (
    CheckpointNotFoundError,
    CorruptCheckpointError,
    TensorError,
    UnsupportedModelError,
)
from sc2onnx.export.adapters.noticed import refuse_adapter, refuse_adapter_tensors
from sc2onnx.export.elsewhere import found_instead
from sc2onnx.export.names import ROTARY_BUFFERS, own_names
from sc2onnx.export.shown import brief, name_of
from sc2onnx.export.stored import (
    Readable,
    Stamp,
    StoredTensor,
    is_file,
    read_header,
    read_json,
    stamp,
)

CONFIG_FILE: Final = "config.json"
SINGLE_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"

_CARD_READ: Final = 1 << 16
"""Characters of a model card that are looked at: its front matter comes first."""

_PAIR: Final = ("lm_head.weight", "embed_tokens.weight")

_PICKLES: Final = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint directory in the Hugging Face layout, its headers read, its tensors untouched.

    ``tensors``: by StarCoder2's own names, whatever wrapper the model was saved in. ``stamps``:
    what tells that a file of weights is the same one still. ``merged``: adapters whose changes are
    in the tensors. ``tokenizer_directory``: that of the adapter whose tokenizer takes the place of
    its own.
    """

    directory: Path
    config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    tensors: Mapping[str, Readable]
    stamps: Mapping[Path, Stamp] = field(default_factory=dict)
    merged: tuple[MergedAdapter, ...] = ()
    tokenizer_directory: Path | None = None

    @classmethod
    def open(cls, directory: Path, *, adapters: bool = False) -> Checkpoint:
        """Read configuration and headers.

        ``adapters``: whether it may have files of an adapter beside its model, which is known then.
        Raises :class:`CheckpointNotFoundError`, :class:`UnsupportedModelError`,
        :class:`CorruptCheckpointError` or :class:`TensorError`.
        """
        config = read_config(directory, adapters=adapters)
        index = None if is_file(directory / SINGLE_FILE) else read_json(directory / INDEX_FILE)
        shards = _shards(directory, index)
        stamps = {shard: stamp(shard) for shard in shards}
        tensors: dict[str, StoredTensor] = {}
        for shard in shards:
            for tensor in read_header(shard):
                if tensor.name in tensors:
                    raise TensorError(
                        f"tensor {name_of(tensor.name)} is in both "
                        f"{tensors[tensor.name].file.name} and {shard.name}, expected once: "
                        "download the checkpoint again"
                    )
                tensors[tensor.name] = tensor
        if index is not None:
            _check_against_index(index, tensors)
        refuse_adapter_tensors(tensors)
        own = {new: replace(tensors[name], name=new) for name, new in own_names(tensors).items()}
        generation = read_json(directory / "generation_config.json") or {}
        return cls(directory, config, generation, own, stamps)

    def check_unchanged(self) -> None:
        """Raise :class:`CorruptCheckpointError` if a file of weights is
        not the one that was opened.
        """
        for path, before in self.stamps.items():
            if stamp(path) != before:
                raise CorruptCheckpointError(f"{path.name} changed while it was read: export again")

    def license(self) -> str | None:
        """The licence named in the checkpoint's model card, as :func:`license_of` finds it."""
        return license_of(self.directory)

    @property
    def text_from(self) -> Path:
        """The directory whose tokenizer it is used with."""
        return self.tokenizer_directory or self.directory


def license_of(directory: Path) -> str | None:
    """The licence named in the model card of a checkpoint or adapter, if any.

    Raises :class:`CorruptCheckpointError` for a card that cannot be read.
    """
    card = directory / "README.md"
    if not inside(directory, card) or not card.is_file():
        return None
    try:
        with card.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_CARD_READ)
    except OSError as error:
        raise CorruptCheckpointError(
            f"{card.name} cannot be read ({error.strerror}): correct its permissions, or remove it"
        ) from error
    front_matter = re.match(r"---\n(.*?)\n---", text, flags=re.DOTALL)
    found = (
        re.search(r"^license:[ \t]*[\"']?([^\s\"'#]+)", front_matter[1], flags=re.MULTILINE)
        if front_matter
        else None
    )
    return found[1] if found else None


def read_config(directory: Path, *, adapters: bool = False) -> dict[str, Any]:
    """``config.json`` of a checkpoint, in whose directory ``adapters`` may lie.

    Raises :class:`CheckpointNotFoundError`, :class:`CorruptCheckpointError` or, for an adapter that
    is not to be there, :class:`UnsupportedModelError`.
    """
    if not directory.is_dir():
        raise CheckpointNotFoundError(
            f"no directory {directory}: give a checkpoint directory or a hub id such "
            "as bigcode/starcoder2-3b"
        )
    if not adapters:
        refuse_adapter(directory)
    config = read_json(directory / CONFIG_FILE)
    if config is None:
        raise CheckpointNotFoundError(
            f"{directory} has no {CONFIG_FILE}, expected a Hugging Face checkpoint "
            f"directory{found_instead(directory)}"
        )
    return config


def _shards(directory: Path, index: Mapping[str, Any] | None) -> list[Path]:
    """Files of weights: those of the index, or the single one that there is without."""
    if is_file(directory / SINGLE_FILE):
        return [directory / SINGLE_FILE]
    if index is None:
        pickles = sorted(path.name for pattern in _PICKLES for path in directory.glob(pattern))
        if pickles:
            raise UnsupportedModelError(
                f"{directory} has only pickled weights ({', '.join(pickles[:3])}), expected "
                "safetensors: loading a pickle runs its code; convert it with transformers' "
                "save_pretrained, or use a revision that has safetensors"
            )
        raise CheckpointNotFoundError(
            f"{directory} has no weights, expected {SINGLE_FILE} or {INDEX_FILE} and its "
            f"shards{found_instead(directory)}"
        )
    names = sorted(set(_weight_map(index).values()))
    for name in names:
        if not plain_file_name(name):
            raise CorruptCheckpointError(
                f"{INDEX_FILE} names the shard {brief(name)}, expected a plain file name: do "
                "not trust this checkpoint"
            )
        if not is_file(directory / name):
            raise CheckpointNotFoundError(
                f"shard {name_of(name)} is missing from {directory}, expected by {INDEX_FILE}: "
                "download the checkpoint again"
            )
    return [directory / name for name in names]


def _weight_map(index: Mapping[str, Any]) -> Mapping[str, str]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(name, str) for name in weight_map.values()
    ):
        raise CorruptCheckpointError(
            f"{INDEX_FILE} has no weight_map of tensor to file name: download the checkpoint again"
        )
    return weight_map


def _check_against_index(index: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> None:
    """Every tensor lies in the shard that the index says, and in no other.

    Either of a tied pair may be missing, and tables that are computed anew: converters copy the
    index of a model that has them.
    """
    for name, file in _weight_map(index).items():
        if name not in tensors and name.endswith(_PAIR + ROTARY_BUFFERS):
            continue
        if name not in tensors or tensors[name].file.name != file:
            found = f"it is in {tensors[name].file.name}" if name in tensors else "no shard has it"
            raise TensorError(
                f"{INDEX_FILE} says that {file} holds {name_of(name)}, but {found}: "
                "download the checkpoint again"
            )
