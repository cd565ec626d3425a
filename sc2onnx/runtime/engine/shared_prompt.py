"""A prompt that several rows have, computed once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sc2onnx.runtime.engine.seats import Seat
from sc2onnx.runtime.results import Token

if TYPE_CHECKING:
    from sc2onnx.runtime.engine.row import Row

Scores = npt.NDArray[np.float32] | np.int64
"""Logits (vocab,), or the most likely token alone."""


class SharedPrompt:
    """A prompt of several rows, computed by the first of them that enters."""

    def __init__(self, rows: int) -> None:
        """``rows``: how many there are."""
        self.coming = rows
        self.leader: Row | None = None
        self.seat: Seat | None = None
        self.scores: Scores | None = None
        self.reused = 0
        self.scored: list[Token] = []
