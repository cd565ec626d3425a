"""An adapter's directory, read: what it changes in which tensor of a model, still lazily."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final

from sc2onnx.bundle.merged import MergedAdapter
from sc2onnx.errors import (
    CheckpointNotFoundError,
    CorruptCheckpointError,
    RequestError,
    UnsupportedModelError,
)
from sc2onnx.export import hub
from sc2onnx.export.adapters.change import Change
from sc2onnx.export.adapters.contents import Contents
from sc2onnx.export.adapters.noticed import ADAPTER_CONFIG, folders_with_adapters
from sc2onnx.export.adapters.settings import LoraSettings
from sc2onnx.export.checkpoint import license_of
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.shown import brief, name_of
from sc2onnx.export.small_files import TEXT_PATTERNS
from sc2onnx.export.stored import Stamp, StoredTensor, is_file, read_header, read_json, stamp

WEIGHTS: Final = "adapter_model.safetensors"
_PICKLE: Final = "adapter_model.bin"

_PATTERNS: Final = (ADAPTER_CONFIG, WEIGHTS, "README.md", *TEXT_PATTERNS)
"""What to download of an adapter on the hub."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter that fits a model.

    ``changes``: tensor of the model -> what is done to it. ``replaced``: tensor -> what takes its
    place. ``apart``: of embedding and head, what becomes a module of its own where the two are
    tied. ``stamps``: what tells that its files are the same still.
    """

    directory: Path
    record: MergedAdapter
    changes: Mapping[str, Change]
    replaced: Mapping[str, StoredTensor]
    apart: frozenset[str]
    stamps: Mapping[Path, Stamp]

    @classmethod
    def open(cls, path: str | Path, weight: float, config: Starcoder2Config) -> Adapter:
        """Read an adapter of the model that ``config`` describes (directory or hub id).

        ``weight``: by what its products of low rank are multiplied, beside their own scale. Raises
        :class:`~sc2onnx.errors.CheckpointError` and its subclasses, and :class:`RequestError` for a
        weight that it cannot have.
        """
        source = hub.resolve(_directory(path), patterns=_PATTERNS)
        whose = f"adapter {name_of(source.name)}"
        raw = _settings(source.directory, whose)
        settings, file = LoraSettings.from_dict(raw, whose), _weights(source.directory, whose)
        files = (file, source.directory / ADAPTER_CONFIG)
        stamps = {path: stamp(path) for path in files}
        contents = Contents.read(whose, settings, read_header(file), config)
        _check_weight(weight, contents)
        sha256, settings_sha256 = map(_digest, files)
        record = MergedAdapter(
            source=source.name,
            revision=source.revision,
            license=license_of(source.directory),
            kind=settings.kind,
            weight=weight,
            sha256=sha256,
            settings_sha256=settings_sha256,
        )
        changes, replaced = contents.changes(weight), contents.replaced
        return cls(source.directory, record, changes, replaced, contents.apart, stamps)


def _directory(path: str | Path) -> str | Path:
    """The directory that is meant; its file of weights stands for it.

    Raises :class:`CheckpointNotFoundError` for another file.
    """
    found = Path(path)
    try:
        if not found.is_file():
            return path
    except OSError:
        return path
    if found.name == WEIGHTS:
        return found.parent
    raise CheckpointNotFoundError(
        f"{found} is a file, expected the directory of an adapter: rank and scale stand in its "
        f"{ADAPTER_CONFIG}, without which tensors cannot be merged"
    )


def _settings(directory: Path, whose: str) -> dict[str, Any]:
    raw = read_json(directory / ADAPTER_CONFIG)
    if raw is None:
        inside = next(folders_with_adapters(directory), None)
        ways = (
            f"there is an adapter in {name_of(inside.name)}: give that directory"
            if inside
            else "rank and scale stand there, so give the directory that peft saved"
        )
        raise CheckpointNotFoundError(f"{whose} has no {ADAPTER_CONFIG}, expected one: {ways}")
    return raw


def _weights(directory: Path, whose: str) -> Path:
    """The adapter's file of tensors. Raises :class:`~sc2onnx.errors.CheckpointError`."""
    if is_file(directory / WEIGHTS):
        return directory / WEIGHTS
    if is_file(directory / _PICKLE):
        raise UnsupportedModelError(
            f"{whose} has only {_PICKLE}, expected {WEIGHTS}: loading a pickle runs its code; "
            "where you trust it, safetensors.torch.save_file(torch.load("
            f"'{_PICKLE}', weights_only=True), '{WEIGHTS}') converts it"
        )
    raise CheckpointNotFoundError(
        f"{whose} has no {WEIGHTS}, expected beside {ADAPTER_CONFIG}: download it again, or save "
        "it again with peft"
    )


def _check_weight(weight: float, contents: Contents) -> None:
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not number or not isfinite(weight) or weight == 0:
        raise RequestError(
            f"{contents.whose}: its weight is {brief(weight)}, expected a number other than 0, "
            "which leaves it out"
        )
    if weight != 1 and contents.whole:
        shown = ", ".join(map(name_of, contents.whole[:3]))
        raise RequestError(
            f"{contents.whose}: its weight is {weight:g}, and it saves tensors whole ({shown}), of "
            "which there is no part: leave its weight at 1"
        )


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CorruptCheckpointError(
            f"{path.name} cannot be read ({error.strerror}): correct its permissions"
        ) from error
