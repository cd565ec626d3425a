"""Whom a front asks, however they are reached."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from sc2onnx.fleet.member import Call, Reply


class Asked(Protocol):
    """One that answers: its ``name``, the requests ``going`` there, whether it is ``ready`` to be
    asked, and whether it is ``here``, with the same log.
    """

    name: str
    ready: bool
    here: bool

    @property
    def going(self) -> int: ...  # noqa: D102

    def ask(self, call: Call) -> AbstractAsyncContextManager[Reply]:
        """Its answer; leaving ends what it computes of it. Raises
        :class:`~sc2onnx.fleet.member.LostError`, also while parts are read.
        """


class Fleet(Protocol):
    """All of them. For one event loop."""

    @property
    def all(self) -> Sequence[Asked]:
        """Those that are known."""

    def ready(self) -> Sequence[Asked]:
        """Those that answer."""

    async def any_ready(self, seconds: float) -> bool:
        """Whether one is ready, at the latest after so many ``seconds``."""
