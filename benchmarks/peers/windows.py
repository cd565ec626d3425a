"""Files -> windows of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from peers import Tokens

SHORTEST = 32
"""Tokens of the shortest window: fewer say little of a model that has seen nothing else."""


def cut(tokens: Tokens, length: int) -> Iterator[Tokens]:
    """Consecutive windows of ``length`` tokens from the start; the last may be shorter, and is
    dropped below ``SHORTEST``.

    600 tokens by 256: 256, 256, 88. 530 tokens by 256: 256, 256 (the other 18 are dropped).
    """
    for start in range(0, len(tokens), length):
        window = tokens[start : start + length]
        if len(window) >= min(SHORTEST, length):
            yield window


def windows(files: Iterable[Sequence[int]], length: int, limit: int) -> list[Tokens]:
    """Windows of every file in turn, none across two files, of at most ``limit`` tokens in all."""
    result: list[Tokens] = []
    left = limit
    for ids in files:
        for window in cut(np.array(ids, dtype=np.int64)[:left], length):
            result.append(window)
            left -= len(window)
    return result
