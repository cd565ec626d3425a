"""A front: has a node answer each request, another where that one takes no more."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fleet_model.policies import Member, Policy
from fleet_model.row import Ask, End, Row
from sc2onnx.fleet.passing import TRIES


class Front:
    """Sees its own requests only, as fronts do. ``members``: all, those that are not ready too."""

    def __init__(self, policy: Policy, members: list[Member]) -> None:
        self._policy, self.members = policy, members

    def submit(self, ask: Ask, over: Callable[[Row, End], None]) -> tuple[Member, Row] | None:
        """A request under way, and where; None: it is refused."""
        ready = [each for each in self.members if each.ready]
        for _ in range(min(TRIES, len(ready))):
            member = self._policy.first(ask.keys, ready)
            row = member.node.submit(ask, partial(_over, member, over))
            if row is not None:
                member.going += 1
                self._policy.chosen(ask.keys, member)
                return member, row
            ready.remove(member)
        return None


def _over(member: Member, over: Callable[[Row, End], None], row: Row, how: End) -> None:
    member.going -= 1
    over(row, how)
