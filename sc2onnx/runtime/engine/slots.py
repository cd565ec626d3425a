"""Seats in slots of one cache, for graphs that are told which row of it each sequence has.

All sequences share buffers of a fixed number of rows, here slots, at the full capacity: whoever
comes or goes moves nobody else, and a pass computes any tokens of any of them. The operators read
live positions only, and memory that was never written takes none, so a slot costs what its sequence
needs. More sequences than slots may be open: those that were not computed for the longest time are
copied out, and come back in when they are.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np

from sc2onnx.runtime.adapter import Adapted
from sc2onnx.runtime.cache.ring import check_rewind
from sc2onnx.runtime.cache.shape import CacheShape, round_up
from sc2onnx.runtime.cache.slot_memory import Array, SlotMemory
from sc2onnx.runtime.engine.seats import Run
from sc2onnx.runtime.ort.binding import Step
from sc2onnx.runtime.ort.session import Session


class SlotSeat:
    """A sequence, in a slot or copied out of it."""

    def __init__(self, seats: SlotSeats) -> None:
        self._seats, self._shape = seats, seats.shape
        self.length = self.written = 0
        self.spot = _Spot()
        weakref.finalize(self, seats.over, self.spot).atexit = False

    @property
    def room(self) -> int:
        """See :class:`~sc2onnx.runtime.engine.seats.Seat`."""
        return self._shape.room(self.length)

    @property
    def earliest(self) -> int:
        """See :class:`~sc2onnx.runtime.engine.seats.Seat`."""
        return self._shape.earliest(self.written, self._shape.capacity)

    @property
    def rewindable(self) -> int:
        """See :class:`~sc2onnx.runtime.engine.seats.Seat`."""
        return max(0, self.length - self.earliest)

    @property
    def nbytes(self) -> int:
        """Bytes of the positions that were written."""
        return self._shape.nbytes * self.live // self._shape.capacity

    @property
    def live(self) -> int:
        """Positions of the slot that hold something, in whole tiles."""
        return round_up(min(self.written, self._shape.capacity), self._shape.tile)

    def begin(self, count: int) -> None:
        """Count the next tokens as written, whatever becomes of them."""
        assert 1 <= count <= self.room
        self.written = max(self.written, self.length + count)
        self.spot.live = self.live

    def rewind(self, count: int) -> None:
        """Drop the last tokens; no data moves. Raises :class:`~sc2onnx.errors.RewindError`."""
        check_rewind(count, self.length, self.rewindable, self._shape.window)
        if count == self.length:  # an empty sequence reads nothing, so nothing it reads is gone
            self.length = self.written = 0
            return
        self.length -= int(count)

    def copy(self, length: int, room: int = 0) -> SlotSeat:
        """See :meth:`sc2onnx.runtime.cache.ring.RingCache.copy`. ``room`` is there anyway."""
        del room
        return self._seats.copied(self, length)

    def place(self, depth: int, chunk: int, values: Array) -> None:
        """See :class:`~sc2onnx.runtime.engine.seats.Seat`. However many steps: nothing grows."""
        del chunk
        self.length = self.written = depth
        self._seats.fill(self, values)

    def clear(self) -> None:
        """Leave the slot."""
        self._seats.left(self.spot)
        self.length = self.written = 0


class _Spot:
    """Where a sequence is: a slot, or copies of what was in one."""

    __slots__ = ("live", "out", "slot")

    def __init__(self) -> None:
        self.slot: int | None = None
        self.out: list[Array] | None = None
        self.live = 0  # positions that were written


class SlotSeats:
    """Slots for the sequences of a model."""

    together = drafts_together = True
    chooses = False

    def __init__(self, session: Session, shape: CacheShape, slots: int) -> None:
        """``slots``: how many sequences one pass may have at most."""
        self.shape, self.slots = shape, slots
        self._session, self._memory = session, SlotMemory(shape, slots)
        self._free = list(reversed(range(slots)))
        self._dirty: dict[int, int] = {}  # free slots that still have memory: positions
        self._open: dict[int, weakref.ref[SlotSeat]] = {}  # by their spots
        # by slot, the least recently used first
        self._seated: dict[int, weakref.ref[SlotSeat]] = {}
        self._step: Step | None = None

    def new(self) -> SlotSeat:
        """An empty sequence, which takes a slot when it is computed."""
        seat = SlotSeat(self)
        self._open[id(seat.spot)] = weakref.ref(seat)
        return seat

    @property
    def nbytes(self) -> int:
        """Bytes of all open sequences, and of slots that were left and not given back."""
        open_ = [
            seat for reference in list(self._open.values()) if (seat := reference()) is not None
        ]
        left = sum(list(self._dirty.values()))
        waiting = self.shape.nbytes * left // self.shape.capacity
        return sum(seat.nbytes for seat in open_) + waiting

    def copied(self, source: SlotSeat, length: int) -> SlotSeat:
        """A sequence with the first tokens of another. A ring that has wrapped is copied whole."""
        wrapped = source.written > self.shape.capacity
        copy = self.new()
        live = self.shape.capacity if wrapped else round_up(length, self.shape.tile)
        self._sit(copy, {source, copy})
        self._sit(source, {source, copy})
        assert source.spot.slot is not None
        assert copy.spot.slot is not None
        self._memory.copy(source.spot.slot, copy.spot.slot, live)
        copy.length, copy.written = (source.length, source.written) if wrapped else (length, length)
        copy.spot.live = live
        copy.rewind(copy.length - length)
        return copy

    def forward(self, runs: Sequence[Run], *, ids: bool = False) -> list[Array]:
        """See :class:`~sc2onnx.runtime.engine.seats.Seats`."""
        assert not ids
        seats = [run.seat for run in runs if isinstance(run.seat, SlotSeat)]
        assert len(seats) == len(set(map(id, seats))) == len(runs) <= self.slots
        for seat, run in zip(seats, runs, strict=True):
            self._sit(seat, seats)
            seat.begin(len(run.tokens))
        logits = self._computed(seats, runs)
        for seat, run in zip(seats, runs, strict=True):
            seat.length += len(run.tokens)
        ends = np.cumsum([run.wanted for run in runs])
        return np.split(logits, ends[:-1])

    def _computed(self, seats: Sequence[SlotSeat], runs: Sequence[Run]) -> Array:
        """Logits of all runs. The tokens that get none go first, so that
        those that do are the last.
        """
        parts = list[tuple[Array, int, int | None]]()
        adapted = list[tuple[Adapted | None, int]]()
        for wanted in (False, True):
            for seat, run in zip(seats, runs, strict=True):
                cut = len(run.tokens) - run.wanted
                tokens = run.tokens[cut:] if wanted else run.tokens[:cut]
                if len(tokens):
                    parts.append((tokens, seat.length + cut * wanted, seat.spot.slot))
                    adapted.append((run.adapted, len(tokens)))
        step = self._step  # cancel() takes it away at any time
        if step is None:
            step = self._step = self._session.bind(self._memory.buffers)
        joined = np.concatenate([tokens for tokens, _, _ in parts])[None]
        lengths = np.array([len(tokens) for tokens, _, _ in parts], dtype=np.int64)
        before = np.array([past for _, past, _ in parts], dtype=np.int64)
        places = np.array([slot for _, _, slot in parts], dtype=np.int64)
        total = sum(run.wanted for run in runs)
        feeds = self._session.adapters.feeds(adapted)
        ragged = lengths, places
        logits: Array = step.run(joined, before, total, ragged=ragged, adapters=feeds)[0]
        return logits

    def fill(self, seat: SlotSeat, values: Array) -> None:
        """Write values (kv_heads, capacity, width) to all of a slot: for measurements."""
        self._sit(seat, [seat])
        assert seat.spot.slot is not None
        self._memory.write(seat.spot.slot, [values] * len(self._memory.buffers))
        seat.spot.live = self.shape.capacity

    def rebind(self) -> None:
        """See :class:`~sc2onnx.runtime.engine.seats.Seats`."""
        self._step = None

    def cancel(self) -> None:
        """Stop the pass that runs; the next one is bound anew."""
        step, self._step = self._step, None
        if step is not None:
            step.cancel()

    def tidy(self) -> None:
        """Give back the memory of slots that were left, and of adapters."""
        if self._session.settle():
            self.rebind()
        for slot in list(self._dirty):
            if slot in self._free:
                self._memory.release(slot)
            self._dirty.pop(slot, None)

    def left(self, spot: _Spot) -> None:
        """A sequence has left its place. Called at any time, by the garbage collector as well."""
        slot, spot.slot, spot.out = spot.slot, None, None
        if slot is not None:
            self._seated.pop(slot, None)
            self._dirty[slot], spot.live = spot.live, 0
            self._free.append(slot)

    def over(self, spot: _Spot) -> None:
        """A sequence was forgotten."""
        self.left(spot)
        self._open.pop(id(spot), None)

    def _sit(self, seat: SlotSeat, busy: Sequence[SlotSeat] | set[SlotSeat]) -> None:
        """Have a sequence in a slot, the others of a pass staying in theirs."""
        spot = seat.spot
        if spot.slot is None:
            slot = self._free.pop() if self._free else self._vacated(busy)
            if spot.out is not None:
                self._memory.write(slot, spot.out)
            spot.slot, spot.out = slot, None
            self._dirty.pop(slot, None)
        self._seated.pop(spot.slot, None)
        self._seated[spot.slot] = weakref.ref(seat)

    def _vacated(self, busy: Sequence[SlotSeat] | set[SlotSeat]) -> int:
        """The slot of the sequence that was not computed for the longest
        time, which is copied out.
        """
        for slot, reference in list(self._seated.items()):
            seat = reference()
            if seat is None or any(seat is other for other in busy) or seat.spot.slot != slot:
                continue
            out = self._memory.read(slot, seat.live)
            if seat.spot.slot == slot:  # it may have been left meanwhile
                self._seated.pop(slot, None)
                seat.spot.slot, seat.spot.out = None, out
                return slot
        return self._free.pop()
