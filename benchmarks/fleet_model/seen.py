"""What editors saw of their requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, NamedTuple

import numpy as np

from fleet_model.editors import Kind
from fleet_model.row import End

PATIENT: Final = 1.0
"""Seconds to the next key from which on somebody is said to wait for an answer."""


class Saw(NamedTuple):
    """A request: when it was ``sent``, the seconds until the ``next`` key, what the key did, how it
    ended, the seconds to its ``first`` token (infinite: it was not there before the end), and
    whether its prompt was ``cut``.
    """

    sent: float
    next: float
    kind: Kind
    end: End
    first: float
    cut: bool


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the requests of a run.

    ``answered``: with a first token before the next key. ``first``: percentiles 50 and 95 of the
    seconds to it. ``waited``, ``typed``: percentile 95 of the requests whose editor had a second or
    more for it, of all and of those where the cursor stayed; what had no first token counts as
    longer than the pause after it. ``whole``: share of these whose prompt was not cut. ``busy``:
    share of the time in which nodes computed for somebody, and ``behind`` for later keys.
    """

    requests: int
    answered: int
    ends: dict[str, int]
    first: tuple[float, float]
    waited: float
    typed: float
    whole: float
    busy: float = 0.0
    behind: float = 0.0

    @classmethod
    def of(cls, saw: Sequence[Saw], busy: float = 0.0, behind: float = 0.0) -> Figures:
        """The figures of some requests."""
        answered = [each.first for each in saw if each.first < inf]
        patient = [each for each in saw if each.next >= PATIENT and each.end != "lost"]
        return cls(
            requests=len(saw),
            answered=len(answered),
            ends=dict(Counter(each.end for each in saw)),
            first=(percentile(answered, 50), percentile(answered, 95)),
            waited=tail(patient),
            typed=tail([each for each in patient if each.kind == "type"]),
            whole=sum(not each.cut for each in patient) / max(1, len(patient)),
            busy=busy,
            behind=behind,
        )


def tail(saw: Sequence[Saw]) -> float:
    """Percentile 95 of the seconds to the first token, at least the pause where there was none."""
    return percentile([min(each.first, each.next) for each in saw], 95)


def percentile(values: Sequence[float], share: float) -> float:
    """A percentile; not a number where there are no values."""
    return float(np.percentile(values, share)) if values else float("nan")
