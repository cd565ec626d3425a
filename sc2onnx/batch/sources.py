"""Files of rows: which there are, and their rows one after the other, as
far as they have been read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from sc2onnx.batch.json_lines import JsonLines
from sc2onnx.batch.parquet import ParquetRows, needs_pyarrow
from sc2onnx.batch.records import Fields, Record
from sc2onnx.errors import RequestError

Rows = Iterator[tuple[int, dict[str, Any] | str]]
"""The numbers of rows, from 1, and their fields, or what is wrong with them."""


class Source(Protocol):
    """A file that is read."""

    def rows(self) -> Rows:
        """Its rows; raises :class:`OSError`."""

    @property
    def position(self) -> float:
        """The part of it that was read so far, from 0 to 1."""


JSON_LINES: Final = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
PARQUET: Final = (".parquet",)

_KINDS: Final = f"{', '.join(JSON_LINES)} or {PARQUET[0]}"


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file of rows: its path as it was given or found, and its size in bytes."""

    name: str
    size: int

    def open(self, fields: Fields) -> Source:
        """Its rows, to be read."""
        if self.name.lower().endswith(PARQUET):
            return ParquetRows(Path(self.name), list(fields.columns.values()))
        return JsonLines(Path(self.name))


def input_files(given: Sequence[str | Path], output: Path) -> tuple[InputFile, ...]:
    """The files given, and those in directories given, at any depth and in order of their names;
    not those whose names, or whose directories', begin with a dot or underscore.

    Raises :class:`RequestError`, and :class:`~sc2onnx.errors.MissingDependencyError` for Parquet
    without pyarrow.
    """
    found = [path for each in given for path in _expanded(Path(each), output)]
    names = [path.as_posix() for path in found]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise RequestError(f"{twice[0]} is given twice, expected each file once")
    if any(name.lower().endswith(PARQUET) for name in names):
        needs_pyarrow()
    return tuple(
        InputFile(name, path.stat().st_size) for name, path in zip(names, found, strict=True)
    )


def _expanded(path: Path, output: Path) -> list[Path]:
    if not path.is_dir():
        if not path.is_file():
            raise RequestError(
                f"{path} is no file and no directory, expected rows: correct the path"
            )
        if not path.name.lower().endswith(JSON_LINES + PARQUET):
            raise RequestError(
                f"{path} is of no kind that is known, expected a name that ends in {_KINDS}"
            )
        return [path]
    if output.resolve().is_relative_to(path.resolve()):
        raise RequestError(
            f"{output} is in {path}, whose files are the input: choose another place for the output"
        )
    files = sorted(
        each
        for each in path.rglob("*")
        if each.name.lower().endswith(JSON_LINES + PARQUET) and each.is_file()
    )
    shown = [
        each
        for each in files
        if not any(part.startswith((".", "_")) for part in each.relative_to(path).parts)
    ]
    if not shown:
        raise RequestError(f"{path} has no file of rows, expected names that end in {_KINDS}")
    return shown


class Reader:
    """The records of several files, one after the other."""

    def __init__(self, files: Sequence[InputFile], fields: Fields) -> None:
        self._files, self._fields = files, fields
        self._before, self._total = 0, sum(file.size for file in files)
        self._current: tuple[InputFile, Source] | None = None

    def __iter__(self) -> Iterator[Record]:
        for file in self._files:
            try:
                source = file.open(self._fields)
                self._current = file, source
                for number, row in source.rows():
                    yield self._record(file.name, number, row)
            except OSError as error:
                found = f"{file.name} cannot be read ({error.strerror or error})"
                raise RequestError(f"{found}: run the same command again when it can") from error
            self._before, self._current = self._before + file.size, None

    def _record(self, name: str, number: int, row: dict[str, Any] | str) -> Record:
        if isinstance(row, str):
            return Record(name, number, error=row)
        return self._fields.record(name, number, row)

    @property
    def position(self) -> float:
        """The part of all bytes that was read so far, from 0 to 1."""
        read = float(self._before)
        if self._current is not None:
            file, source = self._current
            read += file.size * source.position
        return min(1.0, read / self._total) if self._total else 1.0
