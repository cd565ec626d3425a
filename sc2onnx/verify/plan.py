"""What is compared: lengths around the sliding window, and every way a
caller may append and rewind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_FULL_ATTENTION_UNIT: Final = 128
"""Stands in for the window where there is none."""

_UNEVEN: Final = (1, 2, 3, 5, 8, 13, 21, 34, 1, 55, 89, 144)
"""Chunk sizes that fall on both sides of every power of two."""


@dataclass(frozen=True, slots=True)
class Append:
    """Append the tokens at positions ``start`` .. ``stop`` (exclusive)."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Rewind:
    """Drop the last ``count`` tokens."""

    count: int


Action = Append | Rewind


@dataclass(frozen=True, slots=True)
class Case:
    """A length and a way to reach it."""

    length: int
    split: str
    actions: tuple[Action, ...]


def lengths(window: int | None, context: int, limit: int | None = None) -> list[int]:
    """1, W - 1, W, W + 1 and 2 W + 3, as far as the context goes; without a window the
    same around a round number.

    A ``limit`` takes the place of the lengths that exceed it: with W = 256, a limit of
    256 gives 1, 255 and 256.
    """
    unit = min(window or _FULL_ATTENTION_UNIT, context)
    wanted = (1, unit - 1, unit, unit + 1, 2 * unit + 3)
    return sorted({min(length, context, limit or context) for length in wanted if length > 0})


def cases(chosen: Sequence[int], rewindable: int) -> Iterator[Case]:
    """Every length by every split. ``rewindable``: tokens that can be rewound at any depth."""
    for length in chosen:
        yield Case(length, "at once", (Append(0, length),))
        yield Case(length, "token by token", tuple(Append(i, i + 1) for i in range(length)))
        yield Case(length, "uneven chunks", tuple(_uneven(length)))
        if length > 1:
            yield Case(length, "with rewinds", tuple(_with_rewinds(length, rewindable)))


def _uneven(length: int) -> Iterator[Append]:
    start = turn = 0
    while start < length:
        stop = min(length, start + _UNEVEN[turn % len(_UNEVEN)])
        yield Append(start, stop)
        start, turn = stop, turn + 1


def _with_rewinds(length: int, rewindable: int) -> Iterator[Action]:
    """Three times forwards, then back by 1, a few, and as far as allowed; then to the end."""
    position = 0
    for part, count in ((1, 1), (2, 7), (3, rewindable)):
        stop = max(position + 1, length * part // 3)
        yield Append(position, stop)
        back = min(count, stop)
        yield Rewind(back)
        position = stop - back
    yield Append(position, length)
