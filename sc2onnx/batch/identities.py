"""Whether an id was there before, in 8 bytes for each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from sc2onnx.batch.records import Record

_FRESH: Final = 1 << 16
"""Ids in a set of Python's, which takes ten times as much for each, before they are sorted away."""


class Identities:
    """The ids of a job so far, as 64 bits of their hash: among ten million, two that differ are
    taken for one with a probability of 3e-6.
    """

    def __init__(self) -> None:
        self._fresh: set[int] = set()
        self._sorted: list[npt.NDArray[np.uint64]] = []  # each more than twice the one after

    def add(self, identity: str) -> bool:
        """Remember an id. Whether it is a new one."""
        key = int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest(), "big")
        if key in self._fresh or any(_holds(each, key) for each in self._sorted):
            return False
        self._fresh.add(key)
        if len(self._fresh) >= _FRESH:
            self._put_away()
        return True

    def _put_away(self) -> None:
        merged = np.sort(np.fromiter(self._fresh, dtype=np.uint64, count=len(self._fresh)))
        self._fresh.clear()
        while self._sorted and len(self._sorted[-1]) <= 2 * len(merged):
            merged = np.sort(np.concatenate([self._sorted.pop(), merged]))
        self._sorted.append(merged)


def _holds(keys: npt.NDArray[np.uint64], key: int) -> bool:
    place = int(np.searchsorted(keys, np.uint64(key)))
    return place < len(keys) and int(keys[place]) == key


def told_apart(records: Iterable[Record]) -> Iterator[Record]:
    """The records, where one that has the id of an earlier one is an error instead."""
    seen = Identities()
    for record in records:
        if record.id is None or seen.add(record.identity):
            yield record
        else:
            found = (
                f"id is {str(record.id)[:80]!r}, as an earlier row's is, "
                "expected another for each row"
            )
            yield replace(
                record, fields={}, error=f"{found}: --field id= tells rows apart by their place"
            )
