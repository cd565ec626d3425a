"""The only reader of a checkpoint: its files, shards, index and data types.

Tensors are read by byte range, never mapped: mapped pages would count as resident memory, and a 6 GB
checkpoint must convert in less.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from math import prod
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from sc2onnx.errors import CheckpointNotFoundError, CorruptCheckpointError, TensorError, UnsupportedModelError
from sc2onnx.manifest import plain_file_name

CONFIG_FILE: Final = "config.json"
SINGLE_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"

DTYPES: Final[Mapping[str, Any]] = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}
"""Safetensors type name -> numpy type, for the types that StarCoder2 weights come in."""

_PICKLES: Final = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies: bytes ``start`` .. ``start + nbytes`` of ``file``, row-major, ``dtype`` a key of ``DTYPES``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return int(np.dtype(DTYPES[self.dtype]).itemsize)

    def rows(self, rows_at_once: int) -> Iterator[npt.NDArray[Any]]:
        """The tensor in its stored type, at most so many rows (first axis) at a time."""
        width = prod(self.shape[1:]) * self.itemsize
        try:
            with self.file.open("rb", buffering=0) as file:
                for first in range(0, self.shape[0], rows_at_once):
                    count = min(rows_at_once, self.shape[0] - first)
                    data = _read_exactly(file, self.start + first * width, count * width)
                    yield np.frombuffer(data, dtype=DTYPES[self.dtype]).reshape(count, *self.shape[1:])
        except OSError as error:
            raise CorruptCheckpointError(
                f"{self.file.name} cannot be read any more ({error.strerror}): did it change meanwhile? Export again"
            ) from error


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint directory in the Hugging Face layout, its headers read and checked, its tensors untouched."""

    directory: Path
    config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]

    @classmethod
    def open(cls, directory: Path) -> Checkpoint:
        """Read configuration and headers.

        Raises :class:`CheckpointNotFoundError`, :class:`UnsupportedModelError`, :class:`CorruptCheckpointError` or
        :class:`TensorError`.
        """
        config = read_config(directory)
        tensors: dict[str, StoredTensor] = {}
        for shard in _shards(directory):
            for tensor in _header(shard):
                if tensor.name in tensors:
                    first = tensors[tensor.name].file.name
                    raise TensorError(f"tensor {tensor.name} is in both {first} and {shard.name}, expected once: download the checkpoint again")
                tensors[tensor.name] = tensor
        _check_against_index(directory, tensors)
        return cls(directory, config, _json(directory / "generation_config.json") or {}, tensors)

    def license(self) -> str | None:
        """The licence named in the checkpoint's model card, if any."""
        card = self.directory / "README.md"
        text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
        front_matter = re.match(r"---\n(.*?)\n---", text, flags=re.DOTALL)
        found = re.search(r"^license:[ \t]*[\"']?([^\s\"'#]+)", front_matter[1], flags=re.MULTILINE) if front_matter else None
        return found[1] if found else None


def read_config(directory: Path) -> dict[str, Any]:
    """``config.json`` of a checkpoint. Raises :class:`CheckpointNotFoundError` or :class:`CorruptCheckpointError`."""
    if not directory.is_dir():
        raise CheckpointNotFoundError(f"no directory {directory}: give a checkpoint directory or a hub id such as bigcode/starcoder2-3b")
    config = _json(directory / CONFIG_FILE)
    if config is None:
        raise CheckpointNotFoundError(f"{directory} has no {CONFIG_FILE}, expected a Hugging Face checkpoint directory")
    return config


def _shards(directory: Path) -> list[Path]:
    if (directory / SINGLE_FILE).is_file():
        return [directory / SINGLE_FILE]
    index = _json(directory / INDEX_FILE)
    if index is None:
        pickles = sorted(path.name for pattern in _PICKLES for path in directory.glob(pattern))
        if pickles:
            raise UnsupportedModelError(
                f"{directory} has only pickled weights ({', '.join(pickles[:3])}), expected safetensors: loading a pickle runs its code; "
                "convert it with transformers' save_pretrained, or use a revision that has safetensors"
            )
        raise CheckpointNotFoundError(f"{directory} has no weights, expected {SINGLE_FILE} or {INDEX_FILE} and its shards")
    names = sorted(set(_weight_map(index).values()))
    for name in names:
        if not plain_file_name(name):
            raise CorruptCheckpointError(f"{INDEX_FILE} names the shard {name!r}, expected a plain file name: do not trust this checkpoint")
        if not (directory / name).is_file():
            raise CheckpointNotFoundError(f"shard {name} is missing from {directory}, expected by {INDEX_FILE}: download the checkpoint again")
    return [directory / name for name in names]


def _weight_map(index: Mapping[str, Any]) -> Mapping[str, str]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CorruptCheckpointError(f"{INDEX_FILE} has no weight_map of tensor to file name: download the checkpoint again")
    return weight_map


def _check_against_index(directory: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Every tensor lies in the shard that the index says, and in no other."""
    if (directory / SINGLE_FILE).is_file():
        return
    for name, file in _weight_map(_json(directory / INDEX_FILE) or {}).items():
        if name not in tensors or tensors[name].file.name != file:
            found = f"it is in {tensors[name].file.name}" if name in tensors else "no shard has it"
            raise TensorError(f"{INDEX_FILE} says that {file} holds {name}, but {found}: download the checkpoint again")


def _header(path: Path) -> Iterator[StoredTensor]:
    """The tensors that one safetensors file declares. Layout: u64 header length, JSON header, then the data."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= size - 8:
            raise CorruptCheckpointError(f"{path.name} is {size} bytes and not a complete safetensors file: download it again")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            entries = [(name, entry["dtype"], tuple(entry["shape"]), *map(int, entry["data_offsets"])) for name, entry in header.items()]
            end = max((stop for _, _, _, _, stop in entries), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptCheckpointError(f"{path.name} has a malformed safetensors header ({error}): download it again") from error
    expected = 8 + length + end
    if size != expected:
        raise CorruptCheckpointError(f"{path.name} is {size} bytes, its header promises {expected}: it is truncated or padded, download it again")
    try:
        with safe_open(path, framework="numpy"):  # the library's own validation: overlaps, holes, sizes against types
            pass
    except SafetensorError as error:
        raise CorruptCheckpointError(f"{path.name} is not a valid safetensors file ({error}): download it again") from error
    for name, dtype, shape, start, _ in entries:
        if dtype not in DTYPES:
            raise TensorError(f"tensor {name} is stored as {dtype}, expected one of {', '.join(DTYPES)}: convert the checkpoint first")
        yield StoredTensor(name, dtype, shape, path, 8 + length + start)


def _read_exactly(file: FileIO, start: int, count: int) -> bytearray:
    buffer = bytearray(count)
    view, done = memoryview(buffer), 0
    file.seek(start)
    while done < count:
        got = file.readinto(view[done:])
        if not got:
            raise CorruptCheckpointError(f"{file.name} ended {count - done} bytes early: it changed while it was read, export again")
        done += got
    return buffer


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # covers JSONDecodeError and UnicodeDecodeError
        raise CorruptCheckpointError(f"{path.name} is not JSON ({error}): download it again") from error
    if not isinstance(value, dict):
        raise CorruptCheckpointError(f"{path.name} holds a {type(value).__name__}, expected a JSON object: download it again")
    return value
