"""A client, and the checks of what it can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from tests.clients.server import Server

Ability = Literal["completes", "infills", "streams", "cancels", "errors", "chats"]
ABILITIES: Final[tuple[Ability, ...]] = (
    "completes",
    "infills",
    "streams",
    "cancels",
    "errors",
    "chats",
)

Check = Callable[[Server], None]
"""Drives a client against a server. Raises :class:`AssertionError` where it is wrong."""


@dataclass(frozen=True, slots=True)
class Lack:
    """An ability that a client does not have, and how that is known."""

    why: str


@dataclass(frozen=True, slots=True)
class Client:
    """A client by the name that its users know.

    ``version``: of what is installed. ``missing``: why it cannot be driven here, None where it can.
    The others: a check of each ability, or why the client lacks it.
    """

    name: str
    version: Callable[[], str]
    completes: Check | Lack
    infills: Check | Lack
    streams: Check | Lack
    cancels: Check | Lack
    errors: Check | Lack
    missing: Callable[[], str | None] = lambda: None
    chats: Check | Lack = Lack("it asks for code at a cursor only")

    def ability(self, name: Ability) -> Check | Lack:
        """The check of an ability, or why the client lacks it."""
        found: Check | Lack = getattr(self, name)
        return found
