"""A checkpoint argument -> a local directory: as it is, or from the Hugging Face hub and its cache."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sc2onnx.bundle.hub import answers, is_id, mistyped
from sc2onnx.errors import CheckpointNotFoundError
from sc2onnx.export.adapter import ADAPTER_CONFIG
from sc2onnx.export.shown import name_of
from sc2onnx.export.small_files import PATTERNS

_PATTERNS: Final = [*PATTERNS, "*.safetensors", "*.safetensors.index.json", "README.md", ADAPTER_CONFIG]


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint that is on this machine: its directory, what to call it, and its hub commit if it has one."""

    directory: Path
    name: str
    revision: str | None


def resolve(checkpoint: str | Path, revision: str | None = None, patterns: Sequence[str] = _PATTERNS) -> Source:
    """Find the checkpoint: an existing directory wins, otherwise ``owner/name`` is a hub id, of which the files that match are downloaded.

    Where there is a directory ``owner``, an id is one only with a ``revision``. Where the hub does not answer, huggingface_hub's cache is asked.
    ``HF_HUB_OFFLINE``, ``HF_HOME`` and the login of huggingface_hub are honoured. Raises :class:`CheckpointNotFoundError`.
    """
    path = Path(checkpoint)
    shown = name_of(str(checkpoint))
    try:
        found, there = path.is_dir(), path.exists()
    except OSError as error:
        raise CheckpointNotFoundError(f"{shown} cannot be looked at ({error.strerror}): correct the path") from error
    if found:
        if revision is not None:
            raise CheckpointNotFoundError(f"{path} is a local directory, it has no revision {revision!r}: leave the revision out")
        name = os.fsencode(path.resolve().name).decode("utf-8", "backslashreplace")  # files of text hold it
        return Source(path, name, None)
    if there:
        raise CheckpointNotFoundError(f"{path} is a file, expected the checkpoint directory that it lies in")
    if not is_id(str(checkpoint)):
        raise CheckpointNotFoundError(f"no directory {shown}: give a checkpoint directory or a hub id such as bigcode/starcoder2-3b")
    if reason := mistyped(str(checkpoint), revision):
        raise CheckpointNotFoundError(f"no checkpoint at {checkpoint}: {reason}")
    try:
        local = not answers(str(checkpoint), revision)
        snapshot = Path(snapshot_download(str(checkpoint), revision=revision, allow_patterns=list(patterns), local_files_only=local))
    except GatedRepoError as error:
        raise CheckpointNotFoundError(f"{checkpoint} is gated: accept its licence on the hub, then log in with `hf auth login`") from error
    except RevisionNotFoundError as error:
        raise CheckpointNotFoundError(f"{checkpoint} has no revision {revision!r} on the hub: give a branch, tag or commit that exists") from error
    except RepositoryNotFoundError as error:
        raise CheckpointNotFoundError(f"no directory and no hub model {checkpoint}: correct the name, or log in if it is private") from error
    except LocalEntryNotFoundError as error:
        raise CheckpointNotFoundError(
            f"no directory {checkpoint}, and the hub cannot be reached nor does its local cache hold it"
            f"{f' at revision {revision}' if revision else ''}: correct the path, or, for a hub id, connect or unset HF_HUB_OFFLINE"
        ) from error
    except Exception as error:  # the HTTP library below, and so its exceptions, differ between versions of huggingface_hub
        raise CheckpointNotFoundError(f"{checkpoint} could not be downloaded ({error}): try again, or give a local directory") from error
    return Source(snapshot, str(checkpoint), snapshot.name)
