"""Files -> tokens to score, in windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle import texts
from sc2onnx.errors import RequestError
from sc2onnx.runtime.text.codec import Codec


@dataclass(frozen=True, slots=True)
class Document:
    """A file: its name and its text."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """``tokens`` (n,) are read from an empty cache, ``following`` (n,) are
    scored: the token after each.
    """

    tokens: npt.NDArray[np.int64]
    following: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """Everything that is scored. ``files``: the names of those that have a share; ``nbytes``: of
    UTF-8 text that the scored tokens stand for; ``owners``: of each window, the file's number.
    """

    windows: tuple[Window, ...]
    files: tuple[str, ...]
    positions: int
    nbytes: int
    owners: tuple[int, ...]


def read(paths: Sequence[str | Path]) -> list[Document]:
    """The files as they are, line ends included.
    Raises :class:`RequestError` for one that is absent, empty or not UTF-8.
    """
    if not paths:
        raise RequestError("there are no files, expected at least one file of code to evaluate on")
    return [_read(Path(path)) for path in paths]


def _read(path: Path) -> Document:
    try:
        text = texts.contents(path).decode("utf-8")
    except OSError as error:
        raise RequestError(
            f"{path} cannot be read ({error.strerror}), expected a file of code"
        ) from error
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): convert it "
            "first, or leave it out"
        ) from error
    if not text:
        raise RequestError(f"{path} is empty, expected code to score: leave it out")
    return Document(path.name, text)


def tokenize(documents: Sequence[Document], codec: Codec) -> list[list[int]]:
    """Token ids of each, on its own; special tokens spelt out in a file are its characters."""
    return [codec.encode(document.text, special=False) for document in documents]


def passage(documents: Sequence[Document], codec: Codec, length: int, most: int) -> Passage:
    """Windows of up to ``length`` tokens over at most ``most`` positions, shared out among
    the files by :func:`shares`.

    Raises :class:`RequestError` if there is nothing to score.
    """
    files = tokenize(documents, codec)
    granted = shares([len(ids) - 1 for ids in files], most)
    owned = [
        (window, number)
        for number, (ids, share) in enumerate(zip(files, granted, strict=True))
        for window in cut(ids, length, share)
    ]
    windows = tuple(window for window, _ in owned)
    if not windows:
        raise RequestError(
            "the files have no token that follows another, expected at least two tokens in one of "
            "them: give longer files"
        )
    nbytes = sum(
        len(codec.token_bytes(int(token))) for window in windows for token in window.following
    )
    names = tuple(
        document.name for document, share in zip(documents, granted, strict=True) if share
    )
    return Passage(windows, names, sum(map(len, windows)), nbytes, tuple(n for _, n in owned))


def cut(ids: Sequence[int], length: int, most: int) -> Iterator[Window]:
    """The first ``most`` positions of a file with a known next token, each in one window; the
    file's first token is never scored.

    Ids 0..9, length 4, most 20: reads 0-3, 4-7, 8 and scores 1-4, 5-8, 9. A window sees
    nothing of the one before.
    """
    array = np.asarray(ids, dtype=np.int64)
    last = min(len(array) - 1, most)
    for start in range(0, last, length):
        stop = min(start + length, last)
        yield Window(array[start:stop], array[start + 1 : stop + 1])


def shares(sizes: Sequence[int], total: int) -> list[int]:
    """How much each may have of ``total``: alike, except that none has more than its size and what
    it leaves goes to the others.

    Sizes 2, 9, 9 and a total of 12 give 2, 5, 5. Their sum is ``total``, or everything there is.
    """
    granted, left = [0] * len(sizes), total
    for done, i in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        granted[i] = min(sizes[i], left // (len(sizes) - done))
        left -= granted[i]
    return granted
