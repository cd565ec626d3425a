"""How large a cache is: its shape, and how many slots it takes for so many tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sc2onnx.errors import RequestError

CHUNK: Final = 256
"""Tokens of a step of prefill, by default. From 64 to 512 all are as fast (docs/measurements.md); a
larger one takes more slots past the window.
"""

GRANULE: Final = 64
"""Capacities are multiples of this, so that kernels see aligned sizes and
growth is not token by token.
"""

STORAGE: Final[Mapping[str, npt.DTypeLike]] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "uint8": np.uint8,
}
"""Element type of a cache -> the numpy type that its bits are held in.
Numpy has no bfloat16; nothing here computes with it.
"""


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What decides a cache's size. ``window`` counts the current token; ``context`` is the
    most positions there can be.

    ``capacity`` is the most slots a row may take; a step past the window may have
    ``capacity - window + 1`` tokens, and as many tokens can be rewound there. ``width``: elements
    of a slot of one head, which are its channels, or bytes. ``dtype``: of the elements, a key of
    :data:`STORAGE`. ``turned``: values lie (width, capacity). ``tile``: slots that are made and
    copied together; the capacity is a multiple.
    Raises :class:`RequestError` if the capacity is below the window.
    """

    layers: int
    kv_heads: int
    width: int
    window: int
    context: int
    capacity: int
    dtype: str = "float32"
    turned: bool = True
    tile: int = 1

    def __post_init__(self) -> None:
        assert self.capacity % self.tile == 0
        assert self.tile == 1 or not self.turned
        if self.capacity < min(self.window, self.context):
            raise RequestError(
                f"cache capacity is {self.capacity} slots, expected at least the window of "
                f"{self.window}: raise it or leave it out"
            )

    def room(self, length: int) -> int:
        """How many tokens the next step of a row may have.

        With W = 4 and C = 6: an empty row takes 6, a row of 20 takes 3.
        """
        return max(0, length - self.window + 1) + self.capacity - length

    def earliest(self, written: int, capacity: int) -> int:
        """The shortest length, other than 0, that a row of so many slots can be rewound to exactly.

        Going back needs ``max(0, new - W + 1) + C >= max(written, new + 1)``, so
        ``new >= written + W - 1 - C``.
        """
        # a window of 1 reads nothing from before
        nothing_lost = written <= capacity or self.window == 1
        return 0 if nothing_lost else written + self.window - 1 - capacity

    @property
    def rewindable(self) -> int:
        """How many tokens can be rewound exactly at any depth; the whole context if
        every position keeps a slot.
        """
        return self.context if self.capacity >= self.context else self.capacity - self.window + 1

    @property
    def nbytes(self) -> int:
        """Bytes of one row at the full capacity."""
        return (
            2
            * self.layers
            * self.kv_heads
            * self.capacity
            * self.width
            * np.dtype(STORAGE[self.dtype]).itemsize
        )


def default_capacity(window: int, context: int, chunk: int) -> int:
    """Slots for exact steps of ``chunk`` tokens at any depth: window + chunk - 1, rounded up,
    never beyond the context.
    """
    return min(round_up(window + chunk - 1, GRANULE), context)


def first_capacity(slots: int, full: int) -> int:
    """Slots of a fresh cache for so many tokens, of which the full capacity is the most."""
    return min(max(round_up(slots, GRANULE), GRANULE), full)


def round_up(number: int, multiple: int) -> int:
    """The smallest multiple that is not below a number: 17 to 16 is 32."""
    return -(-number // multiple) * multiple
