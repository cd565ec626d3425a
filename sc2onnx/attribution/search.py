"""What of a text stands in a corpus: every run of lexemes that is long enough, as far as it goes.

A run of :data:`~sc2onnx.attribution.corpus.LEAST` lexemes holds a gram that the corpus is looked up
by, wherever it stands. So each gram of the text is looked up, and each hit goes on to both sides
for as long as the lexemes are the same: what is found is compared, not trusted to a hash of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from sc2onnx.attribution.corpus import GRAM, STEP, Corpus, grams
from sc2onnx.attribution.lexemes import Codes, Integers

MOST_PLACES: Final = 512
"""Places of a gram that are looked at: tables and headers have grams that stand in thousands."""

_BLOCK: Final = 1024
"""Grams of the text that are looked up at a time."""

_PAIRS: Final = 8192
"""Hits that are extended at a time."""

_STRIDE: Final = 64
"""Lexemes by which they are extended first, then by twice as many each time."""

_COMPARED: Final = _PAIRS * _STRIDE
"""Lexemes that are compared at a time, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Stretches of a text that a corpus has: where they ``begin`` and ``end`` in the text, and in
    which ``places`` of the corpus they begin; in lexemes, (n,) each.
    """

    begins: Integers
    ends: Integers
    places: Integers

    def where(self, wanted: np.ndarray[tuple[int], np.dtype[np.bool_]] | Integers) -> Runs:
        """Some of them."""
        return Runs(self.begins[wanted], self.ends[wanted], self.places[wanted])


def runs(codes: Codes, corpus: Corpus, least: int) -> Runs:
    """All runs of ``least`` lexemes or more, none of which could be longer; each once."""
    found = [_extended(codes, corpus, *hits) for hits in _hits(codes, corpus)]
    none = np.zeros(0, np.int64)
    every = Runs(
        *(
            np.concatenate([none, *(getattr(each, name) for each in found)])
            for name in ("begins", "ends", "places")
        )
    )
    every = every.where(every.ends - every.begins >= least)
    _, once = np.unique(every.begins << 32 | every.places, return_index=True)
    return every.where(once)


def _hits(codes: Codes, corpus: Corpus) -> Iterator[tuple[Integers, Integers]]:
    """Where grams of the text begin, and places of the corpus that have the same, a few at a time.

    Of hits that are next to each other in one run, the first.
    """
    keys = grams(codes, np.arange(max(0, len(codes) - GRAM + 1)))
    for first in range(0, len(keys), _BLOCK):
        block = keys[first : first + _BLOCK]
        low = np.searchsorted(corpus.keys, block, "left")
        high = np.searchsorted(corpus.keys, block, "right")
        counts = np.minimum(high - low, MOST_PLACES)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        begins = np.repeat(np.arange(first, first + len(block)), counts)
        places = corpus.places[np.repeat(low, counts) + within].astype(np.int64)
        begins, places = _firsts(begins, places)
        for part in range(0, len(begins), _PAIRS):
            yield begins[part : part + _PAIRS], places[part : part + _PAIRS]


def _firsts(begins: Integers, places: Integers) -> tuple[Integers, Integers]:
    """Without hits that an earlier one reaches: one step before, the same distance apart."""
    order = np.lexsort((begins, places - begins))
    begins, places = begins[order], places[order]
    reached = (np.diff(places - begins) == 0) & (np.diff(begins) == STEP)
    first = np.concatenate([np.ones(min(1, len(begins)), np.bool_), ~reached])
    return begins[first], places[first]


def _extended(codes: Codes, corpus: Corpus, begins: Integers, places: Integers) -> Runs:
    """Hits, as far as they go to both sides."""
    after = _reach(codes, corpus.codes, begins, places, 1)
    before = _reach(codes, corpus.codes, begins - 1, places - 1, -1)
    return Runs(begins - before, begins + after, places - before)


def _reach(text: Codes, corpus: Codes, begins: Integers, places: Integers, way: int) -> Integers:
    """For how many lexemes both are the same, from these places on, or with -1 back from them.

    Neither side is left: there is a 0 at both ends of the corpus, and none in the text.
    """
    reach = np.zeros(len(begins), np.int64)
    going, stride = np.arange(len(begins)), _STRIDE
    while len(going):
        ahead = way * (np.arange(stride) + reach[going, None])
        here, there = begins[going, None] + ahead, places[going, None] + ahead
        same = text[np.clip(here, 0, len(text) - 1)] == corpus[np.clip(there, 0, len(corpus) - 1)]
        same &= (here >= 0) & (here < len(text))
        count = np.where(same.all(axis=1), stride, same.argmin(axis=1))
        reach[going] += count
        going = going[count == stride]
        stride = min(2 * stride, _COMPARED // max(1, len(going)))
    return reach
