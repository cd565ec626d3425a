"""The text that calibration reads: code that the package ships, or the user's own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from sc2onnx.bundle import texts
from sc2onnx.bundle.contract import TOKENIZER_FILE
from sc2onnx.errors import CheckpointError, RequestError, TokenizerError
from sc2onnx.export.small_files import SmallFiles
from sc2onnx.export.text_files import origin, tokenizer_data
from sc2onnx.export.tokenizer import open_tokenizer

LENGTH: Final = 512
"""Tokens of a window: long enough for attention to see what it will see, short enough
for many different texts.
"""

DEFAULT_TOKENS: Final = 57344
"""Time and memory are in proportion to it; twice as many gain little
(docs/decisions/0008-calibration.md).
"""

_PER_TOKEN: Final = 8
"""Characters that are tokenised for each token that is wanted: twice what a
token of code has, and more.
"""

ENOUGH: Final = 1 << 20
"""Characters that are tokenised in any case: tokenising takes 150 bytes of memory for each."""

PIECE: Final = 8192
"""Characters of a piece of a long text: a few windows."""


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """Windows of token ids (count, length), and what they are."""

    windows: npt.NDArray[np.int64]
    description: str

    def sample(self, tokens: int) -> npt.NDArray[np.int64]:
        """About so many tokens: windows evenly spread over the text, one at least."""
        count = max(1, min(len(self.windows), tokens // self.windows.shape[1]))
        return np.asarray(self.windows[np.linspace(0, len(self.windows) - 1, count).astype(int)])


def read(
    directory: Path, files: Sequence[Path] | None, tokens: int, context: int, separator: int | None
) -> CalibrationText:
    """Text as the tokenizer of the checkpoint at ``directory`` cuts it: the files joined by
    ``separator``, cut into windows.

    ``files``: None for the package's own. Windows are taken evenly from the whole, up to
    ``tokens``; of long texts only pieces, evenly spread too, are given to the tokenizer. Raises
    :class:`RequestError` and :class:`TokenizerError`.
    """
    tokenizer = tokenizer_of(directory)
    texts = list(packaged_texts() if files is None else map(_text, files))
    digest = hashlib.sha256()
    for text in texts:
        for piece in _pieces(text):
            digest.update(piece.encode())
    ids: list[int] = []
    for text in evenly_spread(texts, max(ENOUGH, _PER_TOKEN * tokens)):
        ids += tokenizer.encode(text, add_special_tokens=False).ids
        ids += [] if separator is None else [separator]
    length = min(LENGTH, context)
    count = len(ids) // length
    if count == 0:
        raise RequestError(
            f"the calibration text has {len(ids)} tokens, expected {length} at least, better "
            f"{DEFAULT_TOKENS}: give more files"
        )
    windows = np.array(ids[: count * length], dtype=np.int64).reshape(count, length)
    taken = CalibrationText(windows, "").sample(max(tokens, length))
    origin = (
        "code shipped with sc2onnx"
        if files is None
        else f"{len(files)} file{'s' if len(files) > 1 else ''}"
    )
    return CalibrationText(
        taken, f"{taken.size} tokens of {origin} (SHA-256 {digest.hexdigest()[:16]})"
    )


def evenly_spread(texts: Sequence[str], limit: int) -> Iterator[str]:
    """The texts, or if they have more than ``limit`` characters about so many of them, in pieces
    evenly spread over the whole.
    """
    total = sum(map(len, texts))
    if total <= limit:
        yield from texts
        return
    seen = taken = 0
    for piece in chain.from_iterable(map(_pieces, texts)):
        if taken * total <= limit * seen:
            yield piece
            taken += len(piece)
        seen += len(piece)


def _pieces(text: str) -> Iterator[str]:
    return (text[first : first + PIECE] for first in range(0, len(text), PIECE))


def tokenizer_of(directory: Path) -> Tokenizer:
    """The tokenizer of a checkpoint. Raises :class:`RequestError` and :class:`TokenizerError`."""
    try:
        files = SmallFiles.read(directory)
        data = tokenizer_data(files)
        if data is not None:
            return open_tokenizer(data, origin(files))
    except CheckpointError as error:
        raise TokenizerError(f"{error}; or pass --no-calibration") from error
    raise RequestError(
        f"the checkpoint has no {TOKENIZER_FILE}, which calibration needs to read text: add it, "
        "or pass --no-calibration"
    )


def packaged_texts() -> Iterator[str]:
    """The texts that the package ships."""
    folder = resources.files("sc2onnx.export.quantize") / "corpus"
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        yield entry.read_text(encoding="utf-8")


def _text(path: Path) -> str:
    try:
        return texts.contents(path).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise RequestError(
            f"{path} cannot be read ({error.strerror}), expected a text file to calibrate on"
        ) from error
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): convert it "
            "first, or leave it out"
        ) from error
