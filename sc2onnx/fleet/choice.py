"""Which member answers a request: the one that has the file's cache, unless it is too busy.

Members are ranked for each file by hashes of both (rendezvous hashing, Thaler and Ravishankar
1998): whoever computes the ranking finds the same one, a member that goes moves only its own
files, and of n members a new one takes one file in n. What went elsewhere because its member was
busy stays there, where its cache is now: the latest files' members are remembered.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Protocol, TypeVar

from sc2onnx.fleet.affinity import Keys

REMEMBERED: Final = 1 << 16
"""Keys whose members are remembered."""


class Candidate(Protocol):
    """A member: its ``name``, which others know it by as well, and the requests ``going`` there."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def going(self) -> int: ...  # noqa: D102


M = TypeVar("M", bound=Candidate)


class Choice:
    """Chooses members for files, and remembers them. For one thread.

    ``slots``: requests that a member computes together; with as many a member is busy.
    """

    def __init__(self, slots: int, remembered: int = REMEMBERED) -> None:
        self._slots, self._most = slots, remembered
        self._homes = OrderedDict[int, str]()

    def order(self, keys: Keys, members: Sequence[M]) -> list[M]:
        """The members, the one that is to answer first, then whom to ask where that one cannot."""
        ranked = sorted(members, key=lambda member: weight(keys[0], member.name), reverse=True)
        home = self._home(keys, ranked)
        if home is not None:
            ranked.remove(home)
            ranked.insert(0, home)
        if ranked and ranked[0].going >= self._slots:
            most = min(self._slots - 1, ranked[0].going // 2)
            idle = next((each for each in ranked if each.going <= most), None)
            if idle is not None:
                ranked.remove(idle)
                ranked.insert(0, idle)
        return ranked

    def _home(self, keys: Keys, members: Sequence[M]) -> M | None:
        """The member that has the file's cache, by at least half of the keys: files that share a
        licence share one of them now and then.
        """
        homes = Counter(filter(None, map(self._homes.get, keys)))
        name, count = next(iter(homes.most_common(1)), ("", 0))
        if 2 * count < len(keys):
            return None
        return next((each for each in members if each.name == name), None)

    def chosen(self, keys: Keys, member: Candidate) -> None:
        """A member answers a request: it has the file's cache from now on."""
        for key in keys:
            self._homes[key] = member.name
            self._homes.move_to_end(key)
        while len(self._homes) > self._most:
            self._homes.popitem(last=False)


def weight(key: int, name: str) -> int:
    """How much a file belongs to a member: most to the one where this is largest."""
    digest = blake2b(key.to_bytes(8, "big"), key=_digest(name), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


@lru_cache(maxsize=1024)
def _digest(name: str) -> bytes:
    return blake2b(name.encode()).digest()
