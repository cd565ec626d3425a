"""Code as lexemes: words and numbers, and symbols, without the white space between them.

A copy that was indented again, or whose lines were broken elsewhere, has the same lexemes. It needs
no grammar, so it does for every language, and for comments. A word is a run of letters, digits and
underscores, and of bytes beyond ASCII. A symbol is one character; four and more of the same one in
a row, such as a rule of dashes, are one lexeme however many they are. In ``a  = f(b)`` there are
six.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.uint32]
"""A number for each lexeme, by which equal ones are known; 0 is none."""

RULE: Final = 4
"""Of the same symbol in a row, from which on they are one lexeme."""

_SPACE, _WORD, _SYMBOL = 0, 1, 2

_BLOCK: Final = 1 << 20
"""Bytes that are taken apart at a time, about."""

_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)


def _kinds() -> Bytes:
    """What each of the 256 bytes belongs to."""
    kinds = np.full(256, _SYMBOL, dtype=np.uint8)
    kinds[:33] = kinds[127] = _SPACE
    words = [byte for byte in range(128) if chr(byte).isalnum() or chr(byte) == "_"]
    kinds[words] = kinds[128:] = _WORD
    return kinds


_KINDS: Final = _kinds()


@dataclass(frozen=True, slots=True, eq=False)
class Lexemes:
    """The lexemes of a text: the ``codes``, and where each ``begins`` and ``ends``, in bytes."""

    codes: Codes
    begins: Integers
    ends: Integers

    @classmethod
    def of(cls, data: bytes) -> Lexemes:
        """The lexemes of a text in UTF-8, or in another extension of ASCII."""
        codes, begins, ends = [np.zeros(0, np.uint32)], [_NONE], [_NONE]
        for first, block in _blocks(data):
            spans = _spans(block)
            codes.append(_codes(block, *spans))
            begins.append(spans[0] + first)
            ends.append(spans[1] + first)
        return cls(np.concatenate(codes), np.concatenate(begins), np.concatenate(ends))


_NONE: Final = np.zeros(0, np.int64)


def mixed(numbers: npt.NDArray[np.uint64]) -> Codes:
    """Numbers of 64 bits as well mixed ones of 32 bits (the finalizer of MurmurHash3)."""
    numbers = (numbers ^ numbers >> np.uint64(33)) * np.uint64(0xFF51AFD7ED558CCD)
    numbers = (numbers ^ numbers >> np.uint64(33)) * np.uint64(0xC4CEB9FE1A85EC53)
    return (numbers >> np.uint64(32)).astype(np.uint32)


def _blocks(data: bytes) -> Iterator[tuple[int, Bytes]]:
    """Where each block begins, and its bytes. Blocks end with a line, where lines are no longer."""
    begin = 0
    while begin < len(data):
        end = min(begin + _BLOCK, len(data))
        if end < len(data):
            end = data.rfind(b"\n", begin, end) + 1 or end
        yield begin, np.frombuffer(data, np.uint8, end - begin, begin)
        begin = end


def _spans(block: Bytes) -> tuple[Integers, Integers]:
    """Where lexemes begin and end."""
    kinds = _KINDS[block]
    goes_on = np.zeros(len(block) + 1, dtype=np.bool_)  # with the byte before
    goes_on[1:-1] = (kinds[1:] == _WORD) & (kinds[:-1] == _WORD)
    same = (kinds[1:] == _SYMBOL) & (block[1:] == block[:-1])
    goes_on[1:-1] |= same & _in_rules(same)
    lexeme = kinds != _SPACE
    begins = np.flatnonzero(lexeme & ~goes_on[:-1])
    return begins, np.flatnonzero(lexeme & ~goes_on[1:]) + 1


def _in_rules(same: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which of runs of True are so long that the symbols are one lexeme."""
    edges = np.flatnonzero(np.diff(same, prepend=False, append=False))
    lengths = edges[1::2] - edges[::2]
    found = np.zeros_like(same)
    found[same] = np.repeat(lengths >= RULE - 1, lengths)
    return found


def _codes(block: Bytes, begins: Integers, ends: Integers) -> Codes:
    """A polynomial of each lexeme's bytes, mixed; of a rule, of the symbols that make it one."""
    if not len(begins):
        return np.zeros(0, np.uint32)
    lengths = ends - begins
    symbols = _KINDS[block[begins]] == _SYMBOL
    lengths[symbols] = np.minimum(lengths[symbols], RULE)
    firsts = np.cumsum(lengths) - lengths
    within = np.arange(lengths.sum()) - np.repeat(firsts, lengths)
    powers = np.cumprod(np.full(lengths.max(), _FACTOR))
    values = block[np.repeat(begins, lengths) + within] + np.uint64(1)
    sums = np.add.reduceat(values * powers[within], firsts)
    return np.maximum(mixed(sums), np.uint32(1))
