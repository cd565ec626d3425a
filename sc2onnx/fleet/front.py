"""The front of a fleet of servers that HTTP reaches: each file's requests go to the one that has
its cache, others to whom the ranking says.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from sc2onnx.fleet.asked import Asked
from sc2onnx.fleet.choice import Choice
from sc2onnx.fleet.counts import Counts
from sc2onnx.fleet.member import Call, LostError, Member
from sc2onnx.fleet.members import Members
from sc2onnx.fleet.passing import LOG, TRIES, WAITS, Passing
from sc2onnx.serve.settings import Settings


class Front(Passing):
    """Has members answer what clients ask.

    ``members``: who answers. ``slots``: requests that a member computes together. ``settings``:
    bounds of requests.
    """

    def __init__(self, members: Members, slots: int, settings: Settings, counts: Counts) -> None:
        super().__init__(members, settings, counts)
        self._members, self._choice = members, Choice(slots)

    async def candidates(self, call: Call) -> AsyncIterator[tuple[Member, bool]]:
        """See :class:`~sc2onnx.fleet.passing.Passing`."""
        tried = set[str]()
        for left in reversed(range(TRIES)):
            ready = [each for each in self._members.ready() if each.name not in tried]
            if not ready and tried and self._members.ready():
                return
            if not ready and not await self._members.any_ready(WAITS):
                raise self.nobody()
            ready = ready or self._members.ready()
            member = self._choice.order(tuple(call.keys), ready)[0]
            tried.add(member.name)
            yield member, bool(left) and len(ready) > 1

    def answers(self, call: Call, member: Asked) -> None:
        """See :class:`~sc2onnx.fleet.passing.Passing`."""
        if call.body:
            self._choice.chosen(tuple(call.keys), member)

    def lost(self, member: Asked, why: LostError) -> None:
        """Note that a member is gone, until it says that it is there."""
        member.ready = False
        self._counts.lost()
        LOG.warning("%s is lost (%s): others are asked", member.name, why)
