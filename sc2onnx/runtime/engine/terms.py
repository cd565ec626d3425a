"""What a request says of its place among others."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Terms:
    """How a request stands beside others. ``priority``: a higher one goes first. ``deadline``: when
    its time is up, of :func:`time.monotonic`. ``replaces``: a newer request with the same key
    takes the place of this one. ``enters``: when it has to have entered at the latest.
    """

    priority: int = 0
    deadline: float | None = None
    replaces: Hashable | None = None
    enters: float | None = None
