"""Where a call is to go: what a caller tells the request router."""

from __future__ import annotations

from typing import NamedTuple

from sc2onnx.fleet.affinity import Keys


class Route(NamedTuple):
    """``keys``: of the file that the call is about; none: whoever has the least to do. ``keeps``:
    whether the replica has the file's cache afterwards. ``avoid``: replicas that others are better
    than. ``to``: the one that is meant, if any.
    """

    keys: Keys = ()
    keeps: bool = False
    avoid: tuple[str, ...] = ()
    to: str = ""
