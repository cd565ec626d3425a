"""One safetensors file: its header, checked and bounded, and its tensors by byte range.

Tensors are never mapped: mapped pages would count as resident memory, and a 6 GB checkpoint must
convert in less.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from io import FileIO
from math import prod
from pathlib import Path
from typing import Any, Final, Protocol, Self

import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from sc2onnx.bundle import records
from sc2onnx.errors import CorruptCheckpointError, TensorError
from sc2onnx.export.shown import brief, name_of

DTYPES: Final[Mapping[str, Any]] = {
    "BF16": ml_dtypes.bfloat16,
    "F16": np.float16,
    "F32": np.float32,
}
"""Safetensors type name -> numpy type, for the types that StarCoder2 weights come in."""

MOST_HEADER: Final = 4 << 20
"""Bytes that a header may have. The 15B in one file has 0.07 MB."""

_PACKED: Final = re.compile(r"[IU](?:4|8|16|32)$|F[468]_")
"""Types in which quantisers store what stands for several weights, or for one with a scale."""

_POINTER: Final = b"version https://git-lfs.github.com/spec/"

Stamp = tuple[int, int, int, int]
"""Device, inode, bytes, and when it was last written."""


class Readable(Protocol):
    """A tensor of a checkpoint, as it is stored or as it is made of what is: read in rows."""

    @property
    def name(self) -> str:
        """StarCoder2's own name for it."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes, (out, in) for a matrix."""
        ...

    @property
    def itemsize(self) -> int:
        """Bytes of one element as it is read."""
        ...

    def rows(self, rows_at_once: int) -> Iterator[npt.NDArray[Any]]:
        """The tensor, at most so many rows (first axis) at a time."""
        ...

    def named(self, name: str) -> Self:
        """The same tensor under another name."""
        ...


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies: bytes ``start`` ..
    ``start + nbytes`` of ``file``, row-major, ``dtype`` a key of ``DTYPES``.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return int(np.dtype(DTYPES[self.dtype]).itemsize)

    def named(self, name: str) -> Self:
        """The same bytes under another name."""
        return replace(self, name=name)

    def rows(self, rows_at_once: int) -> Iterator[npt.NDArray[Any]]:
        """The tensor in its stored type, at most so many rows (first axis) at a time."""
        width = prod(self.shape[1:]) * self.itemsize
        try:
            with self.file.open("rb", buffering=0) as file:
                for first in range(0, self.shape[0], rows_at_once):
                    count = min(rows_at_once, self.shape[0] - first)
                    data = _read_exactly(file, self.start + first * width, count * width)
                    yield np.frombuffer(data, dtype=DTYPES[self.dtype]).reshape(
                        count, *self.shape[1:]
                    )
        except OSError as error:
            raise CorruptCheckpointError(
                f"{self.file.name} cannot be read any more ({error.strerror}): did it change "
                "meanwhile? Export again"
            ) from error


def is_file(path: Path) -> bool:
    """Whether there is a file of this name; False if there is nothing.

    Raises :class:`CorruptCheckpointError` for what is no regular file, which might block who opens
    it (a pipe, a device), and for what cannot be looked at.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    try:
        found = path.stat().st_mode
    except OSError as error:
        raise CorruptCheckpointError(
            f"{name_of(path.name)} is a link that leads to no file ({error.strerror}): "
            "download the checkpoint again"
        ) from error
    if not stat.S_ISREG(found):
        raise CorruptCheckpointError(
            f"{name_of(path.name)} is {_kind(found)}, expected a regular file: take it away"
        )
    return True


def stamp(path: Path) -> Stamp:
    """What changes with a file. Raises :class:`CorruptCheckpointError`
    if it cannot be looked at.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file of at most 4 MB; None if there is no such file.

    Raises :class:`CorruptCheckpointError` for anything else.
    """
    if not is_file(path):
        return None
    try:
        data = records.contents(path, MOST_HEADER)
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise CorruptCheckpointError(
            f"{path.name} is no file of settings ({error}): download it again"
        ) from error
    refuse_pointer(path.name, data)
    try:
        return records.parse(data)
    except ValueError as error:
        raise CorruptCheckpointError(
            f"{path.name} is not a JSON file of settings ({error}): download it again"
        ) from error


def read_header(path: Path) -> Iterator[StoredTensor]:
    """The tensors that a safetensors file declares, all of them within its bytes.

    Layout: u64 length of the header, the header in JSON, the data. Raises
    :class:`CorruptCheckpointError`, and :class:`TensorError` for types of other models.
    """
    try:
        entries, data = _entries(path)
        # the library's own validation: overlaps, holes, sizes against types
        with safe_open(path, framework="numpy"):
            pass
    except OSError as error:
        raise _unreadable(path, error) from error
    except SafetensorError as error:
        raise CorruptCheckpointError(
            f"{path.name} is not a valid safetensors file ({brief(str(error))}): download it again"
        ) from error
    for name, dtype, shape, start, _ in entries:
        if dtype not in DTYPES:
            raise TensorError(
                f"tensor {name_of(name)} is stored as {name_of(dtype)}, expected one of "
                f"{', '.join(DTYPES)}: {_remedy(dtype)}"
            )
        yield StoredTensor(name, dtype, shape, path, data + start)


def refuse_pointer(name: str, start: bytes) -> None:
    """Raise :class:`CorruptCheckpointError` if a file begins as a pointer of Git LFS does.

    That is what a clone has in the place of large files where Git LFS is not installed.
    """
    if start.startswith(_POINTER):
        raise CorruptCheckpointError(
            f"{name} is a pointer of Git LFS, expected the file that it stands for: run `git lfs "
            "pull` in the checkpoint and export again"
        )


def _remedy(dtype: str) -> str:
    """What to do about a tensor of another type."""
    if _PACKED.match(dtype):
        return (
            "a quantiser (GPTQ, AWQ, bitsandbytes, MLX, fp8 or another) has packed it, so give the "
            "checkpoint in floats that it was made from, and quantise that with --precision"
        )
    return (
        "convert the checkpoint to one of them first, and leave out what is no weight of StarCoder2"
    )


_Entry = tuple[str, Any, tuple[Any, ...], int, int]


def _entries(path: Path) -> tuple[list[_Entry], int]:
    """Name, type, shape, first and last byte of each tensor, and where the data begins."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        refuse_pointer(
            path.name, prefix + file.read(len(_POINTER) - 8) if prefix == _POINTER[:8] else b""
        )
        file.seek(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= size - 8:
            raise CorruptCheckpointError(
                f"{path.name} is {size} bytes and not a complete safetensors "
                "file: download it again"
            )
        if length > MOST_HEADER:
            raise CorruptCheckpointError(
                f"{path.name} has a header of {length:,} bytes, expected at most {MOST_HEADER:,}: "
                "it is no checkpoint of StarCoder2"
            )
        raw = file.read(length)
    try:
        header = records.parse(raw)
        header.pop("__metadata__", None)
        entries: list[_Entry] = [
            (name, entry["dtype"], tuple(entry["shape"]), *map(int, entry["data_offsets"]))
            for name, entry in header.items()
        ]
        end = max((stop for _, _, _, _, stop in entries), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptCheckpointError(
            f"{path.name} has a malformed safetensors header ({error}): download it again"
        ) from error
    expected = 8 + length + end
    if size != expected:
        raise CorruptCheckpointError(
            f"{path.name} is {size} bytes, its header promises {expected}: it is truncated or "
            "padded, download it again"
        )
    return entries, 8 + length


def _read_exactly(file: FileIO, start: int, count: int) -> bytearray:
    buffer = bytearray(count)
    view, done = memoryview(buffer), 0
    file.seek(start)
    while done < count:
        got = file.readinto(view[done:])
        if not got:
            raise CorruptCheckpointError(
                f"{file.name} ended {count - done} bytes early: it changed while it "
                "was read, export again"
            )
        done += got
    return buffer


def _unreadable(path: Path, error: OSError | ValueError) -> CorruptCheckpointError:
    reason = error.strerror if isinstance(error, OSError) else error
    return CorruptCheckpointError(
        f"{name_of(path.name)} cannot be read ({reason}): correct its name or its permissions"
    )


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "no file")
