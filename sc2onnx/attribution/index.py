"""An index of files, which knows what of a text stands in them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np

from sc2onnx.attribution.building import build
from sc2onnx.attribution.corpus import GRAM, Corpus
from sc2onnx.attribution.lexemes import Codes, Integers, Lexemes
from sc2onnx.attribution.match import Match, Source
from sc2onnx.attribution.repetitions import Repetition, Rules, repetitions
from sc2onnx.attribution.sources import MOST_BYTES, Files
from sc2onnx.attribution.storage import Arrays, damaged, opened

_USUAL: Final = Rules()


class Index:
    """The words and symbols of files, and where they stand; for :meth:`matches`.

    The file of an index is mapped, so processes share its memory, and little of it is read for one
    text. An index may be used by several threads at once.
    """

    def __init__(self, arrays: Arrays, path: Path) -> None:
        """``arrays``: of :func:`~sc2onnx.attribution.storage.opened`, which are checked here.

        Raises :class:`~sc2onnx.errors.RequestError` for arrays that do not belong together.
        """
        self.path = path
        """The file of the index."""
        self._corpus = Corpus(arrays["codes"], arrays["keys"], arrays["places"])
        self._texts: Integers = arrays["texts"]
        self._lines, self._line_lexemes = arrays["lines"], arrays["line_lexemes"]
        self._files = _files(arrays["files"].tobytes())
        if not self._whole():
            raise damaged(path)

    @classmethod
    def open(cls, path: str | PathLike[str]) -> Index:
        """The index of a file. All of it is compared with its digest, about a second a gigabyte.

        Raises :class:`~sc2onnx.errors.RequestError` for a file that is no index, or not whole.
        """
        return cls(opened(Path(path)), Path(path))

    @classmethod
    def build(
        cls,
        paths: Sequence[str | PathLike[str]],
        output: str | PathLike[str],
        *,
        exclude: Sequence[str] = (),
        most_bytes: int = MOST_BYTES,
    ) -> Index:
        """Index the files of directories into the file ``output``, and open that.

        Files without text, links, and files of more than ``most_bytes`` are left out, and what a
        pattern of ``exclude`` matches (:class:`~sc2onnx.attribution.sources.Files`). Paths are told
        as they are given: relative ones stay relative.

        Raises :class:`~sc2onnx.errors.RequestError` and :class:`~sc2onnx.errors.OutputError`.
        """
        files = Files([Path(path) for path in paths], exclude, most_bytes)
        build(files, Path(output))
        return cls.open(output)

    def __len__(self) -> int:
        """How many files it has."""
        return len(self._files)

    def matches(
        self, text: str, *, prompts: Iterable[str] = (), rules: Rules = _USUAL
    ) -> list[Match]:
        """What of a text stands in the files as well, in the order of the text: the longest
        stretches, none inside another.

        Case matters, white space does not. ``prompts``: what the text was generated from; what
        stands there already is not told of. ``rules``: what counts
        (:class:`~sc2onnx.attribution.repetitions.Rules`).
        """
        data = text.encode("utf-8", "surrogatepass")
        found, before = Lexemes.of(data), map(_codes, prompts)
        every = repetitions(found.codes, self._corpus, self._texts, before, rules)
        at = _characters(data)
        return [self._match(each, found, at, rules.most_sources) for each in every]

    def _match(self, found: Repetition, text: Lexemes, at: Integers, most: int) -> Match:
        length = found.end - found.begin
        return Match(
            begin=int(at[text.begins[found.begin]]),
            end=int(at[text.ends[found.end - 1]]),
            length=length,
            places=len(found.places),
            sources=tuple(self._source(place, length) for place in found.places[:most].tolist()),
        )

    def _source(self, place: int, length: int) -> Source:
        """The file and lines of a place."""
        number = int(np.searchsorted(self._texts, place, "right")) - 1
        lines = self._line_lexemes[self._lines[number] : self._lines[number + 1]]
        within = place - int(self._texts[number]) - 1
        ends = np.searchsorted(lines, [within, within + length - 1], "right")
        path, licence, licence_file = self._files[number]
        return Source(path, int(ends[0]), int(ends[1]), licence, licence_file)

    def _whole(self) -> bool:
        """Whether the arrays belong together, so that no place is outside of one."""
        corpus, texts, lines = self._corpus, self._texts, self._lines
        count = len(self._files)
        return bool(
            len(texts) == count > 0
            and len(lines) == count + 1
            and len(corpus.keys) == len(corpus.places)
            and len(corpus.codes) > texts[-1] + 1
            and (texts[0], corpus.codes[-1]) == (0, 0)
            and (np.diff(texts) > 0).all()
            and not corpus.codes[texts].any()
            and (lines[0], lines[-1]) == (0, len(self._line_lexemes))
            and (np.diff(lines) > 0).all()
            and (corpus.keys[1:] >= corpus.keys[:-1]).all()
            and int(corpus.places.max(initial=0)) <= max(0, len(corpus.codes) - GRAM)
        )


def _files(data: bytes) -> list[tuple[str, str | None, str | None]]:
    """The path of each file, the licence that it declares, and that above it; none for nonsense."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return []
    return [(each[0], each[1], each[2]) for each in found] if _is_files(found) else []


def _is_files(found: Any) -> bool:
    return isinstance(found, list) and all(
        isinstance(each, list)
        and len(each) == 3
        and isinstance(each[0], str)
        and all(isinstance(part, str | None) for part in each[1:])
        for each in found
    )


def _codes(text: str) -> Codes:
    return Lexemes.of(text.encode("utf-8", "surrogatepass")).codes


def _characters(data: bytes) -> Integers:
    """How many characters begin before each byte of a text in UTF-8, and before its end."""
    begins = np.frombuffer(data, np.uint8) & 0xC0 != 0x80
    return np.concatenate([[0], np.cumsum(begins)])
