"""A checkpoint argument -> a local directory: as it is, or from the
Hugging Face hub and its cache.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download

from sc2onnx.bundle.hub import answers, is_id, mistyped
from sc2onnx.bundle.hub_errors import Wording, explained
from sc2onnx.errors import CheckpointNotFoundError
from sc2onnx.export.adapters.noticed import ADAPTER_CONFIG
from sc2onnx.export.shown import name_of
from sc2onnx.export.small_files import PATTERNS

_PATTERNS: Final = [
    *PATTERNS,
    "*.safetensors",
    "*.safetensors.index.json",
    "README.md",
    ADAPTER_CONFIG,
]

_WORDING: Final = Wording(
    missing=CheckpointNotFoundError,
    refused=CheckpointNotFoundError,
    absent="no directory and no hub model {repo}",
    uncached=(
        "no directory {repo}, and the hub cannot be reached nor does its local cache hold it{at}"
    ),
    incomplete="{repo} could not be downloaded ({error}): try again, or give a local directory",
    denied="{repo} could not be downloaded (the hub refused: {status}): {remedy}",
    failed="{repo} could not be downloaded ({error}): try again, or give a local directory",
)


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint that is on this machine: its directory, what to call it, and its
    hub commit if it has one.
    """

    directory: Path
    name: str
    revision: str | None


def resolve(
    checkpoint: str | Path, revision: str | None = None, patterns: Sequence[str] = _PATTERNS
) -> Source:
    """Find the checkpoint: an existing directory wins, otherwise ``owner/name`` is a hub id, of
    which the files that match are downloaded.

    Where there is a directory ``owner``, an id is one only with a ``revision``. Where the hub does
    not answer, huggingface_hub's cache is asked. ``HF_HUB_OFFLINE``, ``HF_HOME`` and the login of
    huggingface_hub are honoured. Raises :class:`CheckpointNotFoundError`.
    """
    path = Path(checkpoint)
    shown = name_of(str(checkpoint))
    try:
        found, there = path.is_dir(), path.exists()
    except OSError as error:
        raise CheckpointNotFoundError(
            f"{shown} cannot be looked at ({error.strerror}): correct the path"
        ) from error
    if found:
        if revision is not None:
            raise CheckpointNotFoundError(
                f"{path} is a local directory, it has no revision {revision!r}: "
                "leave the revision out"
            )
        # files of text hold it
        name = os.fsencode(path.resolve().name).decode("utf-8", "backslashreplace")
        return Source(path, name, None)
    if there:
        raise CheckpointNotFoundError(
            f"{path} is a file, expected the checkpoint directory that it lies in"
        )
    if not is_id(str(checkpoint)):
        raise CheckpointNotFoundError(
            f"no directory {shown}: give a checkpoint directory or a hub id such "
            "as bigcode/starcoder2-3b"
        )
    if reason := mistyped(str(checkpoint), revision):
        raise CheckpointNotFoundError(f"no checkpoint at {checkpoint}: {reason}")
    repo = str(checkpoint)
    with explained(repo, revision, _WORDING):
        local = not answers(repo, revision)
        snapshot = Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=list(patterns), local_files_only=local
            )
        )
    return Source(snapshot, repo, snapshot.name)
