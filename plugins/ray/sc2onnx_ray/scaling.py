"""How many engines there should be: enough for what is asked, and enough memory for its files.

A file whose cache was let go is computed again with its next key, which takes seconds. So engines
that let caches go are too few, even where nobody waits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Final

from ray.serve.config import AutoscalingContext

from sc2onnx.serve.service import Service

EVICTED: Final = "evicted_per_minute"
"""Caches that an engine let go in a minute, for lack of room."""

MANY: Final = 4.0
"""So many of them per engine call for one more."""

STAYS: Final = 600.0
"""Seconds that engines stay which caches called for: with them there, nothing calls for them."""


class Pressure:
    """What an engine tells of itself, between two questions."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._seen, self._since = self._evicted(), time.monotonic()

    def _evicted(self) -> int:
        return sum(model.engine.store.evicted for model in self._service.loaded.values())

    def stats(self) -> dict[str, float]:
        """Figures by name."""
        now, evicted = time.monotonic(), self._evicted()
        minutes = max(now - self._since, 1.0) / 60
        found = {EVICTED: (evicted - self._seen) / minutes}
        self._seen, self._since = evicted, now
        return found


def engines(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """How many engines Ray should have; see :class:`ray.serve.config.AutoscalingPolicy`."""
    now, state = context.current_time or time.time(), dict(context.policy_state or {})
    target = context.config.get_target_ongoing_requests()
    wanted = math.ceil(context.total_num_requests / target)
    if _evicted(context) >= MANY and context.current_num_replicas >= context.target_num_replicas:
        state = {"least": context.current_num_replicas + 1, "until": now + STAYS}
    least = state.get("least", 0) if now < state.get("until", 0.0) else 0
    lowest, highest = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
    return max(lowest, min(highest, max(wanted, least))), state


def _evicted(context: AutoscalingContext) -> float:
    """Caches let go in a minute, of each engine in the mean."""
    found: Mapping[Any, float] = (context.aggregated_metrics or {}).get(EVICTED, {})
    return sum(found.values()) / len(found) if found else 0.0
