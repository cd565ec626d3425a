"""A session and its options -> the engine over it: which seats, how many rows, what is kept."""

from __future__ import annotations

from typing import Final

from sc2onnx.runtime.cache.shape import CacheShape
from sc2onnx.runtime.engine.costs import StepCosts
from sc2onnx.runtime.engine.lobby import Bounds
from sc2onnx.runtime.engine.loop import Engine
from sc2onnx.runtime.engine.prefix import SEQUENCES, PrefixStore
from sc2onnx.runtime.engine.seats import Seats
from sc2onnx.runtime.engine.slots import SlotSeats
from sc2onnx.runtime.engine.stacks import StackSeats
from sc2onnx.runtime.load_options import LoadOptions
from sc2onnx.runtime.ort.session import Session

_MOST_ROWS: Final = 64
"""That decode together on the kernels, whose cache has a slot for each from the start."""

_MORE_SLOTS: Final = 2
"""Slots beyond those that decode together, for what finished requests left."""


def engine_over(
    session: Session,
    cache_shape: CacheShape,
    options: LoadOptions,
    costs: StepCosts,
) -> Engine:
    """The engine of a session, whose sequences have a cache of ``cache_shape`` each. ``costs``: of
    its steps, which it adds to.
    """
    rows = min(options.max_batch, _MOST_ROWS) if session.kernels else options.max_batch
    context = cache_shape.context
    bounds = Bounds(rows, min(options.prefill_chunk, context), context, session.even_steps)
    limit = options.prefix_memory
    store = PrefixStore(SEQUENCES * cache_shape.nbytes if limit is None else limit)
    seats: Seats = StackSeats(session, cache_shape)
    if session.kernels:
        seats = SlotSeats(session, cache_shape, rows + _MORE_SLOTS)
    return Engine(seats, bounds, store, costs, session.process)
