"""Choosing tokens among those that a constraint allows."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from sc2onnx.runtime.choose.chooser import Chooser


class Steering(Protocol):
    """Where a text is within its constraint, such as
    :class:`~sc2onnx.runtime.choose.steering.GrammarSteering`.
    """

    @property
    def complete(self) -> bool:
        """Whether the text satisfies the constraint, and nothing can follow it."""

    def allowed(self) -> npt.NDArray[np.int64]:
        """Tokens that may come next; stop tokens only where the text may end."""

    def take(self, token: int) -> None:
        """Go on by a token that was drawn."""

    def forced(self, limit: int) -> list[int]:
        """Tokens that have to come next, at most ``limit``."""

    def agreed(self, tokens: list[int]) -> int:
        """How many of these tokens may come next, one after the other."""

    def permits(self, spelling: bytes) -> bool:
        """Whether the text may go on with these bytes."""

    def begin(self, spelling: bytes) -> None:
        """Go on by bytes, which are permitted."""


class Constrained:
    """A sampler that draws only what a constraint allows."""

    def __init__(self, sampler: Chooser, steering: Steering) -> None:
        self.sampler, self.steering = sampler, steering

    def draw(self, logits: npt.NDArray[np.float32]) -> int:
        """A token from logits (vocab,), which are left alone. Raises
        :class:`~sc2onnx.errors.ConstraintError` if nothing is allowed.
        """
        token = self.sampler.draw(only(logits, self.steering.allowed()))
        self.steering.take(token)
        return token


def only(
    logits: npt.NDArray[np.float32], allowed: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Logits (vocab,) in which other tokens than the ``allowed`` ones are ruled out."""
    scores = np.full_like(logits, -np.inf)
    scores[allowed] = logits[allowed]
    return scores
