"""Ways to choose a node for a request: the front's own, and what is there without it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Final, Protocol

from fleet_model.node import Node
from sc2onnx.fleet import choice
from sc2onnx.fleet.affinity import Keys
from sc2onnx.fleet.choice import Choice


class Member:
    """A node as a front sees it: ``going``, requests of this front's there; ``ready``: whether it
    is asked.
    """

    __slots__ = ("going", "name", "node", "ready")

    def __init__(self, name: str, node: Node) -> None:
        self.name, self.node, self.going, self.ready = name, node, 0, True


class Policy(Protocol):
    """Chooses among members that are ready."""

    def first(self, keys: Keys, members: Sequence[Member]) -> Member:
        """Who is asked."""

    def chosen(self, keys: Keys, member: Member) -> None:
        """A member answers."""


class Affinity:
    """The front's own choice (:class:`sc2onnx.fleet.choice.Choice`)."""

    def __init__(self, slots: int, chance: random.Random) -> None:
        self._choice = Choice(slots)

    def first(self, keys: Keys, members: Sequence[Member]) -> Member:
        """See :class:`Policy`."""
        return self._choice.order(keys, members)[0]

    def chosen(self, keys: Keys, member: Member) -> None:
        """See :class:`Policy`."""
        self._choice.chosen(keys, member)


class _Forgetful:
    def __init__(self, slots: int, chance: random.Random) -> None:
        self._chance, self._count = chance, 0

    def chosen(self, keys: Keys, member: Member) -> None:
        """See :class:`Policy`."""


class Rendezvous(_Forgetful):
    """The member that hashes say, however busy it is."""

    def first(self, keys: Keys, members: Sequence[Member]) -> Member:
        """See :class:`Policy`."""
        return max(members, key=lambda member: choice.weight(keys[0], member.name))


class RoundRobin(_Forgetful):
    """One after the other."""

    def first(self, keys: Keys, members: Sequence[Member]) -> Member:
        """See :class:`Policy`."""
        self._count += 1
        return members[self._count % len(members)]


class Random(_Forgetful):
    """Any."""

    def first(self, keys: Keys, members: Sequence[Member]) -> Member:
        """See :class:`Policy`."""
        return self._chance.choice(members)


class LeastLoaded(_Forgetful):
    """One of those with the fewest requests."""

    def first(self, keys: Keys, members: Sequence[Member]) -> Member:
        """See :class:`Policy`."""
        least = min(member.going for member in members)
        return self._chance.choice([each for each in members if each.going == least])


POLICIES: Final[dict[str, Callable[[int, random.Random], Policy]]] = {
    "affinity": Affinity,
    "rendezvous": Rendezvous,
    "least loaded": LeastLoaded,
    "random": Random,
    "round robin": RoundRobin,
}


@contextmanager
def hashes_kept(most: int = 1 << 20) -> Iterator[None]:
    """Compute each hash of a file and a member once: a front computes them for each request."""
    computed = choice.weight
    choice.weight = lru_cache(most)(computed)
    try:
        yield
    finally:
        choice.weight = computed
