"""The sliding-window key-value cache: positions, capacity, rewind.

Arithmetic and numpy arrays only; where they lie is for a
:class:`~sc2onnx.runtime.cache.storage.Storage` to say.

A row holds ``length`` tokens. Position p lives in slot ``p mod C`` of each layer's buffers,
keys (rows, kv_heads, C, width) and values (rows, kv_heads, width, C) or like the keys, and a
query at position q reads positions ``max(0, q - W + 1) .. q``. A step of S tokens first writes
its own slots, and with them destroys the positions C below. ``written`` is one past the highest
position ever written (rewinding does not restore what was overwritten), so a step is exact iff
nothing it reads is gone::

    max(0, length - W + 1) + C >= max(written, length + S)

Worked example, W = 4, C = 6, twenty tokens written (positions 14..19 survive): rewinding 2 gives
length 18, which reads from position 15; 15 + 6 >= 20 holds. Rewinding 4 gives length 16, which
reads from 13; 13 + 6 >= 20 fails.

A cache that keeps every position is one whose window and capacity are the
context: nothing ever wraps.

Slots may be opaque bytes that lie in tiles (:mod:`sc2onnx.runtime.cache.slots`). What is where
within a tile is its writer's business, so whole tiles are made and copied: with tiles of 16, the
first n slots are in the first ceil(n / 16) of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sc2onnx.errors import RewindError
from sc2onnx.runtime.cache.shape import GRANULE, STORAGE, CacheShape, first_capacity, round_up
from sc2onnx.runtime.cache.storage import InMemory, Storage


class RingCache:
    """Keys and values of some rows, and how far each row has come.

    ``buffers`` is (key, value) by layer, (rows, kv_heads, capacity, width) and (rows, kv_heads,
    width, capacity) if ``turned``, in the type of :data:`~sc2onnx.runtime.cache.shape.STORAGE`,
    where ``storage`` puts them. They are replaced when the cache grows; :attr:`generation` counts
    that, so that whoever bound them knows to bind again.
    """

    def __init__(
        self, shape: CacheShape, rows: int, *, slots: int = 0, storage: Storage | None = None
    ) -> None:
        self.shape, self.storage = shape, storage or InMemory()
        self.lengths: npt.NDArray[np.int64] = np.zeros(rows, dtype=np.int64)
        self.written: npt.NDArray[np.int64] = np.zeros(rows, dtype=np.int64)
        self.capacity = first_capacity(slots, shape.capacity)
        self.generation = 0
        self.buffers = self._made(rows, self.capacity)

    @property
    def rows(self) -> int:
        """How many sequences it holds."""
        return len(self.lengths)

    @property
    def by_slot(self) -> list[npt.NDArray[Any]]:
        """The contents as (rows, kv_heads, capacity, width), values too; views where the
        buffers are arrays, else copies.
        """
        return [self.contents(number) for number in range(len(self.buffers))]

    @property
    def nbytes(self) -> int:
        """Bytes allocated now."""
        return (
            self.rows * self.capacity * self.shape.nbytes // self.shape.capacity
            if self.buffers
            else 0
        )

    def length(self, row: int = 0) -> int:
        """Tokens of a row; 0 once the cache is cleared."""
        lengths = self.lengths  # as it is now: another thread may be closing
        return int(lengths[row]) if row < len(lengths) else 0

    def longest_step(self) -> int:
        """The most tokens that one step over all rows may have."""
        return min(self.shape.room(int(length)) for length in self.lengths)

    def begin(self, step: int) -> None:
        """Make the next ``step`` slots of every row writable, growing first
        if they are not all there.

        From here on they count as written, whatever becomes of the step: if it fails, the rows
        stand as before, exactly.
        """
        assert 1 <= step <= self.longest_step()
        end = int(self.lengths.max()) + step
        if end > self.capacity and self.capacity < self.shape.capacity:
            self._grow(end)
        self.written = np.maximum(self.written, self.lengths + step)

    def commit(self, step: int) -> None:
        """The step that :meth:`begin` announced has been computed."""
        self.lengths = self.lengths + step

    def rewindable(self, row: int = 0) -> int:
        """The most tokens that :meth:`rewind` drops exactly, short of dropping all of
        them (which always works).

        What is below :meth:`earliest` is gone.
        """
        lengths = self.lengths  # as it is now: another thread may be closing
        return max(0, int(lengths[row]) - self.earliest(row)) if row < len(lengths) else 0

    def earliest(self, row: int = 0) -> int:
        """The shortest length, other than 0, that a row can be rewound to exactly; beyond its
        own length, no rewind is.
        """
        return self.shape.earliest(int(self.written[row]), self.capacity)

    def rewind(self, count: int, row: int = 0) -> None:
        """Drop the last ``count`` tokens of a row; no data moves.
        Raises :class:`RewindError` where that would not be exact.
        """
        length = int(self.lengths[row])
        check_rewind(count, length, self.rewindable(row), self.shape.window)
        if count == length:  # an empty row reads nothing, so nothing it reads can be gone
            # in this order: a signal handler may raise in between
            self.lengths[row] = self.written[row] = 0
            return
        self.lengths[row] = length - count

    def place(self, row: int, other: RingCache, of: int = 0) -> None:
        """Copy a row of another cache into one of this, which grows to its
        capacity; the others stay.

        Slots keep their numbers: only rows at the full capacity have wrapped, and that is then
        everybody's.
        """
        if other.capacity > self.capacity:
            self._grow(other.capacity)
        count = other.capacity
        for number, buffer in enumerate(self.buffers):
            array = self.storage.get(number, buffer)
            # what a device gave may be used again
            array = array if array is buffer else array.copy()
            old = other.contents(number)
            new = self._turned(number, array)
            new[row, :, :count] = old[of, :, :count]
            new[row, :, count:] = 0  # what was there before may be no numbers
            self.buffers[number] = self.storage.put(number, array)
        self.lengths[row], self.written[row] = other.lengths[of], other.written[of]
        self.generation += 1

    @classmethod
    def stacked(cls, rows: int, members: Sequence[tuple[RingCache, int]]) -> RingCache:
        """A cache with so many rows, the first of which are these rows of others, as :meth:`place`
        copies them; the rest are empty. Each buffer is read once and written once.
        """
        first = members[0][0]
        stack = cls(
            first.shape,
            rows=0,
            slots=max(cache.capacity for cache, _ in members),
            storage=first.storage,
        )
        stack.buffers = stack._made(rows, stack.capacity, members)
        stack.lengths, stack.written = (
            np.zeros(rows, dtype=np.int64),
            np.zeros(rows, dtype=np.int64),
        )
        for row, (cache, of) in enumerate(members):
            stack.lengths[row], stack.written[row] = cache.lengths[of], cache.written[of]
        return stack

    def taken(self, row: int) -> RingCache:
        """A cache of its own with one of the rows."""
        return RingCache.stacked(1, [(self, row)])

    def vacate(self, row: int) -> None:
        """Make a row empty, for another sequence."""
        self.lengths[row] = self.written[row] = 0

    def copy(self, length: int, room: int = 0) -> RingCache:
        """A cache of its own with the first ``length`` tokens of a single row, which must be exact
        to rewind to, and room for ``room`` in all.

        Until the row has wrapped, slot = position, and the first slots are all there is to
        copy; a ring is copied whole. With tiles of 16, 17 tokens take two: what is copied
        beyond them counts as not written.
        """
        assert self.rows == 1
        wrapped = int(self.written[0]) > self.capacity
        slots = self.capacity if wrapped else round_up(length, self.shape.tile)
        copied = RingCache(self.shape, rows=0, slots=max(slots, room), storage=self.storage)
        copied.buffers = self._made(1, copied.capacity, [(self, 0)], slots)
        copied.lengths, copied.written = (
            (self.lengths.copy(), self.written.copy())
            if wrapped
            else (np.array([length]), np.array([length]))
        )
        copied.rewind(copied.length() - length)
        return copied

    def fill(self, values: npt.NDArray[Any]) -> None:
        """Write values (kv_heads, capacity, width) to every slot of every row and layer, keys and
        values alike: for measurements.
        """
        for number, buffer in enumerate(self.buffers):
            array = self.storage.get(number, buffer)
            self._turned(number, array)[:] = values
            self.buffers[number] = self.storage.put(number, array)
        self.generation += 1

    def clear(self) -> None:
        """Forget every row and free the buffers."""
        # a reader that has the old lengths finds the old ``written``
        self.lengths = np.zeros(0, dtype=np.int64)
        self.written = np.zeros(len(self.written), dtype=np.int64)
        self.buffers = list[Any]()
        self.generation += 1

    def _grow(self, slots: int) -> None:
        """Copy into larger buffers, a quarter larger at least.

        Below the full capacity no row has ever wrapped, so slot = position on both sides.
        """
        capacity = min(round_up(max(slots, self.capacity * 5 // 4), GRANULE), self.shape.capacity)
        grown = self._made(self.rows, capacity, [(self, row) for row in range(self.rows)])
        # All at once, so that running out of memory above leaves the cache as it was.
        self.capacity, self.buffers, self.generation = capacity, grown, self.generation + 1

    def _made(
        self,
        rows: int,
        capacity: int,
        members: Sequence[tuple[RingCache, int]] = (),
        slots: int | None = None,
    ) -> list[Any]:
        """Buffers of this shape, whose first rows are those of ``members``,
        their first ``slots``, or all.
        """
        made = []
        for number in range(2 * self.shape.layers):
            # Zeros, not garbage: masked slots have weight 0, and 0 times NaN would not be 0. The
            # system maps zero pages lazily.
            plain = (rows, self.shape.kv_heads, capacity, self.shape.width)
            lying = (*plain[:2], plain[3], plain[2]) if self._is_turned(number) else plain
            array = np.zeros(lying, STORAGE[self.shape.dtype])
            contents = {id(cache): cache.contents(number) for cache, _ in members}
            for row, (cache, of) in enumerate(members):
                count = cache.capacity if slots is None else slots
                self._turned(number, array)[row, :, :count] = contents[id(cache)][of, :, :count]
            made.append(self.storage.put(number, array))
        return made

    def contents(self, number: int) -> npt.NDArray[Any]:
        """Of the ``number``-th buffer, as (rows, kv_heads, capacity, width): a view where it
        is an array, else a copy.
        """
        return self._turned(number, self.storage.get(number, self.buffers[number]))

    def _is_turned(self, number: int) -> bool:
        return self.shape.turned and number % 2 == 1

    def _turned(self, number: int, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return array.swapaxes(2, 3) if self._is_turned(number) else array


def check_rewind(count: object, length: int, rewindable: int, window: int) -> None:
    """Raise :class:`RewindError` where ``count`` tokens of a row of ``length``
    cannot be dropped exactly.
    """
    if not isinstance(count, (int, np.integer)) or not 0 <= count <= length:
        whole = f"give a whole number from 0 to {length}"
        raise RewindError(f"cannot rewind {count!r} tokens of a sequence of {length}: {whole}")
    if count != length and count > rewindable:
        raise RewindError(
            f"cannot rewind {count} tokens: the sliding window of {window} has passed what they "
            f"would uncover; at most {rewindable} of {length} (or all of them) can go, more with "
            "a larger cache_capacity"
        )
