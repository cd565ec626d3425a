"""Rows of JSON lines, also compressed: what is no row is told of in its place."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

MOST_BYTES: Final = 16 << 20
"""Bytes of a line: thousands of times what a model reads."""

_BOM: Final = b"\xef\xbb\xbf"


class JsonLines:
    """A file with an object of JSON on each line; empty lines are none. A name that ends in .gz is
    decompressed.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._size = path, max(1, path.stat().st_size)
        self._raw: IO[bytes] | None = None

    @property
    def position(self) -> float:
        """The part of the file that was read so far, from 0 to 1."""
        if self._raw is None or self._raw.closed:
            return 0.0
        return min(1.0, self._raw.tell() / self._size)

    def rows(self) -> Iterator[tuple[int, dict[str, Any] | str]]:
        """The number of each line, from 1, and its object, or what is wrong with it.

        Compressed data that ends early, or makes no sense, is a last row. Raises :class:`OSError`.
        """
        number = 0
        with self._path.open("rb") as self._raw:
            packed = self._path.name.lower().endswith(".gz")
            file: IO[bytes] = (
                gzip.GzipFile(  # type: ignore[assignment]
                    fileobj=self._raw,
                )
                if packed
                else self._raw
            )
            try:
                while line := _line(file):
                    number += 1
                    if len(line) > MOST_BYTES:
                        yield (
                            number,
                            (
                                f"the line has more than {MOST_BYTES:,} bytes, "
                                "expected at most so many"
                            ),
                        )
                    elif content := line.removeprefix(_BOM if number == 1 else b"").strip():
                        yield number, _object(content)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                yield (
                    number + 1,
                    f"the file cannot be decompressed from here on ({error}): what follows is lost",
                )


def _line(file: IO[bytes]) -> bytes:
    """The next line with its end; of one that is too long no more than shows that it is."""
    line = file.readline(MOST_BYTES + 1)
    piece = line
    while len(piece) > MOST_BYTES and not piece.endswith(b"\n"):
        piece = file.readline(MOST_BYTES + 1)
    return line


def _object(line: bytes) -> dict[str, Any] | str:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return (
            f"the line is not UTF-8 ({error.reason} at byte {error.start}), "
            "expected an object of JSON"
        )
    except RecursionError:
        return "the line is nested too deep, expected an object of JSON"
    except ValueError as error:  # a JSONDecodeError, or an integer of thousands of digits
        return f"the line is not JSON ({str(error)[:200]}), expected an object"
    return (
        value
        if isinstance(value, dict)
        else f"the line is a {type(value).__name__}, expected an object of JSON"
    )
