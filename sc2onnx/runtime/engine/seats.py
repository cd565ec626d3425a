"""Where the cache of a sequence is, and how sequences are computed together: what the loop needs of
it.

A seat is one sequence's place in a cache, from its first token on. There are two kinds of caches:
one with slots for all sequences (:mod:`.slots`), and one that is stacked for those that decode
together (:mod:`.stacks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sc2onnx.runtime.adapter import Adapted


class Seat(Protocol):
    """The cache of one sequence."""

    @property
    def length(self) -> int:
        """Tokens that it holds."""

    @property
    def room(self) -> int:
        """The most tokens that its next step may have, by window and capacity."""

    @property
    def rewindable(self) -> int:
        """The most tokens that can be dropped exactly, short of all of them."""

    @property
    def earliest(self) -> int:
        """The shortest length, other than 0, that it can be rewound to exactly."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes."""

    def rewind(self, count: int) -> None:
        """Drop the last tokens. Raises :class:`~sc2onnx.errors.RewindError`."""

    def copy(self, length: int, room: int = 0) -> Seat:
        """A seat of its own with the first ``length`` tokens, and room for ``room`` in all."""

    def place(self, depth: int, chunk: int, values: npt.NDArray[Any]) -> None:
        """Be ``depth`` tokens long, as after steps of at most ``chunk``, with ``values`` (kv_heads,
        capacity, width) for keys and values: for measurements.
        """

    def clear(self) -> None:
        """Give its memory up."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one sequence computes in a step: ``tokens`` (n,), of which the
    last ``wanted`` get logits.

    ``prefill``: they are of a prompt, which is computed in the same way however it is cut.
    ``adapted``: with which adapter; None: with none.
    """

    seat: Seat
    tokens: npt.NDArray[np.int64]
    wanted: int
    prefill: bool = False
    adapted: Adapted | None = None


class Seats(Protocol):
    """The caches of a model, and its forward pass over them. For one thread at a time."""

    @property
    def together(self) -> bool:
        """Whether prompts and steps of other lengths are computed in the pass of the others."""

    @property
    def drafts_together(self) -> bool:
        """Whether sequences that decode together may have several tokens each."""

    @property
    def chooses(self) -> bool:
        """Whether a pass can give the most likely tokens instead of logits."""

    @property
    def nbytes(self) -> int:
        """Bytes that open seats and what waits to be used again take."""

    def new(self) -> Seat:
        """An empty seat."""

    def forward(self, runs: Sequence[Run], *, ids: bool = False) -> list[npt.NDArray[Any]]:
        """Compute runs of different seats: of each the logits (wanted, vocab), float32.

        ``ids``: instead the most likely tokens (wanted,), int64, -1 where logits are no numbers. If
        it fails, all seats hold what they held. Raises :class:`~sc2onnx.errors.InferenceError`, and
        :class:`~sc2onnx.errors.CancelledError` after :meth:`cancel`.
        """

    def cancel(self) -> None:
        """Stop the pass that runs. For any thread."""

    def tidy(self) -> None:
        """Give memory back that nobody is waiting for."""

    def rebind(self) -> None:
        """Bind passes anew: the session's graphs, or its adapters, are others."""
