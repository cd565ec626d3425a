"""Directories -> the file of an index, in memory that does not grow with them."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from sc2onnx.attribution.corpus import sampled
from sc2onnx.attribution.lexemes import Codes, Lexemes
from sc2onnx.attribution.sources import Files
from sc2onnx.attribution.storage import Writing, written
from sc2onnx.errors import RequestError

_MOST_CODES: Final = 2**32 - 1
"""Places that a number of 32 bits tells apart."""

_BLOCK: Final = 1 << 20
"""Sorted grams that are written at a time."""


@dataclass(frozen=True, slots=True)
class Built:
    """What went into an index: files, bytes of them, and lexemes."""

    files: int
    bytes: int
    lexemes: int


def build(files: Files, output: Path) -> Built:
    """Index files, and write that to ``output``, whole or not at all.

    Raises :class:`~sc2onnx.errors.RequestError` where there is no text, or more than fits, and
    :class:`~sc2onnx.errors.OutputError`.
    """
    with written(output) as writing, tempfile.TemporaryFile(dir=output.parent) as grams:
        pile = _Pile(writing, grams)
        for file in files:
            pile.add(file.data)
            pile.names.append((file.path, file.licence, file.licence_file))
        if not pile.names:
            raise RequestError(f"there is no text in {', '.join(map(str, files.paths))}")
        return pile.finish()


class _Pile:
    """Files that were indexed so far. What grows with lexemes is in files: the codes in that of the
    index, the grams, which are to be sorted, in one of their own.
    """

    def __init__(self, writing: Writing, grams: BinaryIO) -> None:
        self._writing, self._grams = writing, grams
        self.names = list[tuple[str, str | None, str | None]]()
        self._texts = list[int]()
        self._lines = list[Codes]()
        self._length = self._bytes = 0

    def add(self, data: bytes) -> None:
        """Add a file."""
        found = Lexemes.of(data)
        if self._length + len(found.codes) + 2 > _MOST_CODES:
            most = f"expected at most {_MOST_CODES:,}"
            raise RequestError(f"there are more words and symbols than fit, {most}: make several")
        text = np.concatenate([np.zeros(1, np.uint32), found.codes])
        keys, places = sampled(text, self._length)
        pairs = keys.astype(np.uint64) << np.uint64(32) | places.astype(np.uint64)
        self._grams.write(pairs.tobytes())
        self._writing.part("codes", text)
        self._texts.append(self._length)
        self._lines.append(_line_lexemes(data, found))
        self._length += len(text)
        self._bytes += len(data)

    def finish(self) -> Built:
        """Write what is left."""
        write = self._writing.part
        write("codes", np.zeros(1, np.uint32))
        self._write_grams()
        write("texts", np.array(self._texts, np.int64))
        for lines in self._lines:
            write("line_lexemes", lines)
        write("lines", np.cumsum([0, *map(len, self._lines)]))
        names = json.dumps(self.names, ensure_ascii=False, separators=(",", ":")).encode()
        write("files", np.frombuffer(names, np.uint8))
        return Built(len(self.names), self._bytes, self._length - len(self.names))

    def _write_grams(self) -> None:
        """Sort the grams where they are, in a file, and write their keys and places."""
        self._grams.flush()
        if not self._grams.tell():
            for name in ("keys", "places"):
                self._writing.part(name, np.zeros(0, np.uint32))
            return
        pairs = np.memmap(self._grams, np.uint64, "r+")
        pairs.sort()
        for name, shift in (("keys", 32), ("places", 0)):
            for begin in range(0, len(pairs), _BLOCK):
                part = pairs[begin : begin + _BLOCK] >> np.uint64(shift)
                self._writing.part(name, part.astype(np.uint32))


def _line_lexemes(data: bytes, found: Lexemes) -> Codes:
    """How many lexemes are before each line."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
    return np.searchsorted(found.begins, np.concatenate([[0], ends])).astype(np.uint32)
