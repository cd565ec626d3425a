"""Rows of Parquet, in and out, by pyarrow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

from sc2onnx.errors import MissingDependencyError
from sc2onnx.hints import install

_ROWS: Final = 64
"""Rows of the input in memory at a time: files of code may be large."""

_GROUP: Final = 4096
"""Rows of a row group of the output."""

Kind = str
"""Type of a column of the output: ``str``, ``int``, ``float``, ``bool``, ``ints``, ``floats``, or
``json`` for what becomes a text of JSON.
"""


def needs_pyarrow() -> None:
    """Raise :class:`MissingDependencyError` where pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"Parquet needs the package pyarrow: {install('batch')}"
        ) from error


class ParquetRows:
    """The rows of a file, of which only the named columns are read."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path, self._columns = path, columns
        self._done, self._rows = 0, 1

    @property
    def position(self) -> float:
        """The part of the rows that was read so far, from 0 to 1."""
        return min(1.0, self._done / self._rows)

    def rows(self) -> Iterator[tuple[int, dict[str, Any] | str]]:
        """The number of each row, from 1, and its columns.

        What cannot be read of a damaged file is one row, a text that says so. Raises
        :class:`OSError`.
        """
        import pyarrow as pa

        with self._path.open("rb") as raw:
            try:
                for batch in self._batches(raw):
                    for row in _each(batch):
                        self._done += 1
                        yield self._done, row
            except (pa.ArrowException, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                yield (
                    self._done + 1,
                    (
                        "the file cannot be read from here on as Parquet "
                        f"({_short(error)}): what follows is lost"
                    ),
                )

    def _batches(self, raw: IO[bytes]) -> Iterator[Any]:
        import pyarrow.parquet as pq

        file = pq.ParquetFile(raw)
        self._rows = max(1, file.metadata.num_rows)
        names = file.schema_arrow.names
        there = [name for name in self._columns if name in names]
        yield from file.iter_batches(_ROWS, columns=there or names[:1])


def _each(batch: Any) -> Iterator[dict[str, Any] | str]:
    """The rows of a batch; one whose text is not UTF-8 is told of in its place."""
    for place in range(batch.num_rows):
        try:
            (row,) = batch.slice(place, 1).to_pylist()
        except UnicodeDecodeError as error:
            yield f"a text of the row is not UTF-8 ({error.reason} at byte {error.start})"
        else:
            yield _plain(row)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Maps, which come as lists of pairs, as dicts."""
    return {name: dict(value) if _is_map(value) else value for name, value in row.items()}


def _is_map(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(pair, tuple) for pair in value)
    )


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def write_parquet(lines: IO[bytes], columns: Mapping[str, Kind], out: IO[bytes]) -> None:
    """Write rows, which come as lines of JSON, as a Parquet file. Raises :class:`OSError`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, _arrow(kind)) for name, kind in columns.items()])
    told = {name for name, kind in columns.items() if kind == "json"}
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        while rows := [json.loads(line) for line in islice(lines, _GROUP)]:
            for row in rows:
                if "id" in row:  # a column has one type, and ids are texts or numbers
                    row["id"] = str(row["id"])
                row |= {name: json.dumps(row[name]) for name in told & row.keys()}
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _arrow(kind: Kind) -> Any:
    import pyarrow as pa

    plain = {
        "str": pa.string(),
        "json": pa.string(),
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
    }
    return plain[kind] if kind in plain else pa.list_(plain[kind.removesuffix("s")])
