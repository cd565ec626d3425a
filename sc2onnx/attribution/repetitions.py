"""What of a text is told of as a repetition: the longest stretches that a corpus has, without those
that say little of where they are from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from sc2onnx.attribution.corpus import LEAST, Corpus
from sc2onnx.attribution.lexemes import Codes, Integers
from sc2onnx.attribution.search import Runs, runs
from sc2onnx.errors import RequestError
from sc2onnx.messages import printable

USUAL_LEAST: Final = 50
"""Lexemes of the shortest repetition that is told of, by default: 200 characters, about."""

USUAL_FILES: Final = 50
"""Files beyond which what stands in them is anybody's, by default."""

DISTINCT: Final = 16
"""Different lexemes that a repetition has at least: tables of numbers and lists of letters are
alike without being copies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What counts as a repetition.

    ``least``: lexemes (words, numbers and symbols) of the shortest one, 23 or more.
    ``most_files``: what stands in more files than that is anybody's, such as the header of a
    licence, and does not count; None: it does. ``most_sources``: places of one repetition that are
    told of, 1 or more.

    Raises :class:`~sc2onnx.errors.RequestError` on construction.
    """

    least: int = USUAL_LEAST
    most_files: int | None = USUAL_FILES
    most_sources: int = 5

    def __post_init__(self) -> None:
        for name, least in (("least", LEAST), ("most_files", 1), ("most_sources", 1)):
            value = getattr(self, name)
            if value is None and name == "most_files":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                found = printable(repr(value))[:40]
                raise RequestError(f"{name} is {found}, expected a number, {least} or more")


@dataclass(frozen=True, slots=True, eq=False)
class Repetition:
    """A stretch of a text, from ``begin`` to ``end`` in lexemes, and the ``places`` of a corpus
    where it begins.
    """

    begin: int
    end: int
    places: Integers


def repetitions(
    codes: Codes, corpus: Corpus, texts: Integers, prompts: Iterable[Codes], rules: Rules
) -> Iterator[Repetition]:
    """Repetitions in the order of a text, none of which is inside another.

    ``texts``: where each text of the corpus begins. ``prompts``: what was there before, and is
    nobody's repetition. At least ``rules.least`` lexemes of each are neither in a prompt nor in too
    many texts, :data:`DISTINCT` of them different.
    """
    found = runs(codes, corpus, LEAST)
    long = found.where(found.ends - found.begins >= rules.least)
    if not len(long.begins):  # as nearly always: prompts need not be looked at
        return
    known = _in_prompts(codes, prompts)
    if rules.most_files is not None:
        known |= _files(found, np.searchsorted(texts, found.places, "right"), len(codes)) > (
            rules.most_files
        )
    for begin, end, places in _longest(long):
        own = codes[begin:end][~known[begin:end]]
        if len(own) >= rules.least and len(np.unique(own)) >= DISTINCT:
            yield Repetition(begin, end, places)


def _in_prompts(
    codes: Codes, prompts: Iterable[Codes]
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which lexemes are part of a run that stands in a prompt."""
    found = runs(codes, Corpus.of(prompts), LEAST)
    return _covered(found.begins, found.ends, len(codes)) > 0


def _covered(begins: Integers, ends: Integers, length: int) -> Integers:
    """How many stretches each place is in."""
    edges = np.zeros(length + 1, np.int64)
    np.add.at(edges, begins, 1)
    np.add.at(edges, ends, -1)
    return np.cumsum(edges)[:length]


def _files(found: Runs, files: Integers, length: int) -> Integers:
    """In how many files each lexeme of a text is part of a run.

    Runs of one file that overlap count once: each begins where those before it end.
    """
    order = np.lexsort((found.begins, files))
    begins, ends, files = found.begins[order], found.ends[order], files[order]
    base = files * (length + 1)  # so that the ends of one file are below those of the next
    reached = np.maximum.accumulate(base + ends)
    before = np.concatenate([np.zeros(min(1, len(order)), np.int64), reached[:-1]]) - base
    begins = np.maximum(begins, before)
    some = begins < ends
    return _covered(begins[some], ends[some], length)


def _longest(found: Runs) -> Iterator[tuple[int, int, Integers]]:
    """Stretches that are inside no other, and their places in order."""
    found = found.where(np.lexsort((found.places, -found.ends, found.begins)))
    furthest = np.maximum.accumulate(found.ends)
    new = np.ones(len(found.ends), np.bool_)
    new[1:] = found.ends[1:] > furthest[:-1]
    firsts = np.flatnonzero(new)
    for first in firsts.tolist():
        begin, end = int(found.begins[first]), int(found.ends[first])
        same = (found.begins == begin) & (found.ends == end)
        yield begin, end, found.places[same]
