"""The file of an index: a header, and arrays of numbers that are mapped, not read.

The header is JSON, :data:`_HEADER` bytes with what fills them up: where each array is, its length,
and a digest of it all. Numbers are little-endian. The file has the codes of lexemes and
the paths of files, none of their text.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from sc2onnx.attribution.corpus import GRAM, STEP
from sc2onnx.bundle.files import TEMPORARY
from sc2onnx.errors import OutputError, RequestError

FORMAT: Final = 1
"""Of the file; one of another format is to be made again."""

DTYPES: Final[Mapping[str, str]] = {
    "codes": "<u4",
    "keys": "<u4",
    "places": "<u4",
    "texts": "<i8",
    "line_lexemes": "<u4",
    "lines": "<i8",
    "files": "|u1",
}
"""The arrays, in order: see :class:`~sc2onnx.attribution.corpus.Corpus` and
:class:`~sc2onnx.attribution.index.Index`. ``files`` is JSON."""

_MAGIC: Final = "sc2onnx attribution index"
_HEADER: Final = 4096
_BLOCK: Final = 1 << 22

Arrays = dict[str, npt.NDArray[Any]]


class Writing:
    """Writes the arrays, one after the other, each in parts."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, hashlib.sha256()
        self._arrays = dict[str, tuple[int, int]]()
        self._at = _HEADER
        file.seek(_HEADER)

    def part(self, name: str, numbers: npt.NDArray[Any]) -> None:
        """Append to an array, which is the last that was begun, or a new one."""
        if name not in self._arrays:
            self._write(bytes(-self._at % 64))
            self._arrays[name] = (self._at, 0)
        begin, length = self._arrays[name]
        self._arrays[name] = (begin, length + len(numbers))
        self._write(np.ascontiguousarray(numbers, dtype=DTYPES[name]).tobytes())

    def finish(self) -> None:
        """Write the header."""
        arrays = {name: list(place) for name, place in self._arrays.items()}
        header = {"kind": _MAGIC, "format": FORMAT, "gram": GRAM, "step": STEP, "arrays": arrays}
        self._digest.update(json.dumps(header).encode())
        whole = {**header, "sha256": self._digest.hexdigest()}
        self._file.seek(0)
        self._file.write(json.dumps(whole).encode().ljust(_HEADER - 1) + b"\0")

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._at += len(data)


@contextmanager
def written(path: Path) -> Iterator[Writing]:
    """Write the file of an index, whole or not at all; one that is there is replaced.

    Raises :class:`~sc2onnx.errors.OutputError`.
    """
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)
        with os.fdopen(handle, "wb") as file:
            writing = Writing(file)
            yield writing
            writing.finish()
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def opened(path: Path) -> Arrays:
    """The arrays of a file, mapped, and compared with its digest.

    Raises :class:`~sc2onnx.errors.RequestError` for a file that is none, or not whole.
    """
    try:
        with path.open("rb") as file:
            header = _header(file.read(_HEADER), path)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error
    given = header.pop("sha256", None)
    if given != digest_of(mapped, header):
        raise damaged(path)
    return {name: _array(mapped, name, header["arrays"].get(name), path) for name in DTYPES}


def digest_of(data: bytes | mmap.mmap, header: Mapping[str, Any]) -> str:
    """The digest of a file: of what follows its header, and of the header without the digest."""
    digest = hashlib.sha256()
    for begin in range(_HEADER, len(data), _BLOCK):
        digest.update(data[begin : begin + _BLOCK])
    digest.update(json.dumps(header).encode())
    return digest.hexdigest()


def damaged(path: Path) -> RequestError:
    """What is raised for a file that is not as it was written."""
    return RequestError(f"{path} is not as it was written: index the directories again")


def _header(data: bytes, path: Path) -> dict[str, Any]:
    try:
        header = json.loads(data.rstrip(b"\0"))
        known = header["kind"] == _MAGIC and isinstance(header["arrays"], dict)
    except (ValueError, KeyError, TypeError, RecursionError):
        known = False
    if not known or len(data) < _HEADER:
        made = "what `sc2onnx attribution index` has made"
        raise RequestError(f"{path} is no index of sources, expected {made}")
    if [header.get(name) for name in ("format", "gram", "step")] != [FORMAT, GRAM, STEP]:
        found = f"{path} is of another version of sc2onnx"
        raise RequestError(f"{found}, expected format {FORMAT}: index the directories again")
    whole: dict[str, Any] = header
    return whole


def _array(mapped: mmap.mmap, name: str, place: Any, path: Path) -> npt.NDArray[Any]:
    """An array of the file. Its place is looked at: whoever writes a digest may write anything."""
    dtype = np.dtype(DTYPES[name])
    whole = isinstance(place, list) and [type(each) for each in place] == [int, int]
    if not whole or min(place) < 0 or place[0] + place[1] * dtype.itemsize > len(mapped):
        raise damaged(path)
    begin, length = place
    return np.frombuffer(mapped, dtype, length, begin)
