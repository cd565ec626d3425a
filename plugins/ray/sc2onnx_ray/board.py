"""What the request router of a process knows, for its front to see.

It is reached by functions: Ray sends the router's module to other processes by value, with copies
of the data that it names, where functions of other modules stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ray.serve.handle import DeploymentID

Going = Mapping[str, int]
"""Requests of this process's that each replica computes, by its name."""

_BOARD: Final[dict[str, Going]] = {}


def post(deployment: DeploymentID, going: Going) -> None:
    """Say who there is of a deployment."""
    _BOARD[str(deployment)] = going


def posted(deployment: DeploymentID) -> Going:
    """Who there is of a deployment."""
    return _BOARD.get(str(deployment), {})
