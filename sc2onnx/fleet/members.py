"""Members that come and go, and who of them is there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from sc2onnx.fleet.member import Member

LOG: Final = logging.getLogger("sc2onnx.fleet")

EVERY: Final = 1.0
"""Seconds between questions how a member is."""

SOON: Final = 0.1
"""Seconds between questions to a member that is not ready."""

_MISSED: Final = 3
"""Questions that a member leaves unanswered before nobody waits for it any more."""


class Members:
    """The members of a fleet. For one event loop."""

    def __init__(self, members: Iterable[Member] = ()) -> None:
        self._watching = dict[str, asyncio.Task[None]]()
        self._members = {member.name: member for member in members}

    @property
    def all(self) -> list[Member]:
        """Every member, those that are not ready too."""
        return list(self._members.values())

    def ready(self) -> list[Member]:
        """The members that answer."""
        return [member for member in self._members.values() if member.ready]

    def start(self) -> None:
        """Begin to ask how members are, every :data:`EVERY` seconds."""
        for member in self._members.values():
            self._watch(member)

    def add(self, member: Member) -> None:
        """Take in a member, which is asked when it is ready."""
        self._members[member.name] = member
        self._watch(member)

    async def remove(self, name: str) -> None:
        """Ask a member no more. What it computes, it may end."""
        member = self._members.pop(name)
        self._watching.pop(name).cancel()
        while member.going:
            await asyncio.sleep(SOON)
        await member.close()

    async def stop(self) -> None:
        """End asking, and close all connections."""
        for task in self._watching.values():
            task.cancel()
        for member in self._members.values():
            await member.close()

    async def any_ready(self, seconds: float) -> bool:
        """Whether a member is ready, at the latest after so many ``seconds``."""
        ends = asyncio.get_running_loop().time() + seconds
        while not self.ready():
            left = ends - asyncio.get_running_loop().time()
            if left <= 0:
                return False
            await asyncio.sleep(min(SOON, left))
        return True

    def _watch(self, member: Member) -> None:
        self._watching[member.name] = asyncio.create_task(self._look_after(member))

    async def _look_after(self, member: Member) -> None:
        missed = 0
        while True:
            state, before = await member.probe(), member.ready
            member.ready = state == "ready"
            missed = missed + 1 if state == "lost" else 0
            if missed == _MISSED:
                member.abandon()
            if member.ready is not before:
                LOG.info("%s is %s", member.name, state)
            await asyncio.sleep(EVERY if member.ready else SOON)
