"""Lexemes of many texts, and where sequences of them stand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from sc2onnx.attribution.lexemes import Codes, Integers, mixed

GRAM: Final = 16
"""Lexemes in a row by which places are looked up."""

STEP: Final = 8
"""Every so many lexemes of a corpus a gram is looked up by."""

LEAST: Final = GRAM + STEP - 1
"""Lexemes of the shortest repetition that is sure to hold such a gram, wherever it stands."""

_FACTOR: Final = np.uint64(0xD6E8FEB86659FD93)


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Texts, one after the other.

    ``codes``: of all lexemes, (n,), with a 0 before each text and after the last. ``keys``, in
    order, and ``places``: of grams of :data:`GRAM` lexemes that begin at every :data:`STEP`-th
    place and are inside a text, both (m,).
    """

    codes: Codes
    keys: Codes
    places: Codes

    @classmethod
    def of(cls, texts: Iterable[Codes]) -> Corpus:
        """The corpus of a few texts, in memory."""
        end = np.zeros(1, np.uint32)
        codes = np.concatenate([part for text in texts for part in (end, text)] + [end])
        keys, places = sampled(codes)
        order = np.argsort(keys, kind="stable")
        return cls(codes, keys[order], places[order].astype(np.uint32))


def sampled(codes: Codes, first: int = 0) -> tuple[Codes, Integers]:
    """Keys and places of grams in a part of a corpus, whose place is ``first``."""
    begins = np.arange(-first % STEP, len(codes) - GRAM + 1, STEP)
    inside = np.ones(len(begins), dtype=np.bool_)
    for offset in range(GRAM):
        inside &= codes[begins + offset] != 0
    begins = begins[inside]
    return grams(codes, begins), begins + first


def grams(codes: Codes, begins: Integers) -> Codes:
    """Keys of the grams that begin in these places."""
    sums = np.zeros(len(begins), np.uint64)
    for offset in range(GRAM):
        sums = sums * _FACTOR + codes[begins + offset]
    return mixed(sums)
