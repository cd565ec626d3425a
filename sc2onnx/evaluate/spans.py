"""Where files are cut open to be infilled: a rest of a line, a line, a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from sc2onnx.errors import RequestError
from sc2onnx.evaluate.text import Document

Kind = Literal["rest of line", "line", "lines"]
KINDS: Final[tuple[Kind, ...]] = ("rest of line", "line", "lines")

_FEWEST, _MOST = 2, 4  # lines of a span of several
_LONGEST: Final = 320  # characters of a span
_VISIBLE: Final = 4  # characters that a line must show to be worth asking for


@dataclass(frozen=True, slots=True)
class Span:
    """``prefix + truth + suffix`` is the file.
    The truth has ``lines`` lines, and not the newline that ends the last.
    """

    file: str
    kind: Kind
    prefix: str
    truth: str
    suffix: str

    @property
    def lines(self) -> int:
        """How many lines the truth is on."""
        return self.truth.count("\n") + 1


def choose(documents: Sequence[Document], count: int, seed: int) -> list[Span]:
    """``count`` spans, the kinds in turn, each kind at other lines; the same
    for the same files and seed.

    Lines are drawn evenly over all files, among those with some letter or digit and at least 4
    visible characters; a line that begins several has only such lines after it. A rest of a line
    begins at or after its second visible character and has at least 3 visible ones. Spans are up to
    320 characters long. Raises :class:`RequestError` if there are too few lines.
    """
    random = np.random.default_rng(seed)
    chosen = {
        kind: _of_kind(documents, kind, len(range(turn, count, len(KINDS))), random)
        for turn, kind in enumerate(KINDS)
    }
    return [chosen[KINDS[i % len(KINDS)]][i // len(KINDS)] for i in range(count)]


def _of_kind(
    documents: Sequence[Document], kind: Kind, count: int, random: np.random.Generator
) -> list[Span]:
    texts = [document.text.split("\n") for document in documents]
    places = [
        (file, line)
        for file, lines in enumerate(texts)
        for line in range(len(lines))
        if _worth(lines[line])
    ]
    spans: list[Span] = []
    for index in random.permutation(len(places)):
        if len(spans) == count:
            break
        file, line = places[index]
        height = int(random.integers(_FEWEST, _MOST + 1)) if kind == "lines" else 1
        column = _column(texts[file][line], random) if kind == "rest of line" else 0
        if (
            all(map(_worth, texts[file][line : line + height]))
            and line + height <= len(texts[file])
            and column is not None
        ):
            start = sum(len(before) + 1 for before in texts[file][:line]) + column
            truth = "\n".join(texts[file][line : line + height])[column:]
            if len(truth) <= _LONGEST and len(truth) < len(documents[file].text):
                text = documents[file].text
                spans.append(
                    Span(
                        documents[file].name, kind, text[:start], truth, text[start + len(truth) :]
                    )
                )
    if len(spans) < count:
        raise RequestError(
            f"the files have {len(spans)} places for a span of the kind {kind!r}, --infill needs "
            f"{count}: ask for fewer, or add files"
        )
    return spans


def _worth(line: str) -> bool:
    """Whether a line says something: ``}`` and ``# ---`` do not."""
    return len(line.strip()) >= _VISIBLE and any(map(str.isalnum, line))


def _column(line: str, random: np.random.Generator) -> int | None:
    """Where to cut a line so that both sides show something; None if it is too short."""
    first, end = len(line) - len(line.lstrip()) + 1, len(line.rstrip()) - 2
    places = [column for column in range(first, end) if len(line[column:].strip()) >= 3]
    return int(random.choice(places)) if places else None
