"""What a node's steps cost, as measured at the 3B shape in int4 on two cores."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

MEASURED: Final = {
    1: 0.037, 2: 0.040, 4: 0.045, 8: 0.051, 16: 0.076, 20: 0.088, 32: 0.136, 64: 0.261, 256: 1.0,
}  # fmt: skip
"""Seconds of a step by its tokens: docs/measurements.md (2, 8, 16), decision 16 (4, 20, and 32, 64
and 256: 250 tokens a second, 6 % and 2 % slower in chunks of 32 and 64), decision 17 (1).
"""

TOKEN_BYTES: Final = 2 * 30 * 2 * 132
"""Of keys and values of a token in the int8 cache: 30 layers, 2 heads, 128 channels and a scale."""

FULL_TOKENS: Final = 4352
"""Slots of a cache at its full capacity."""

STOP: Final = 0.004
"""Seconds until a pass that is stopped has ended (decision 17)."""

OVERHEAD: Final = 0.010
"""Seconds of a request beside its steps: HTTP, JSON and the tokens of its text (decision 17: 47 ms
to the first token over HTTP after a typed character, of which the step takes 37).
"""


class StepTable:
    """Seconds of a step, by straight lines between what was measured.

    ``times``: how many times as long a step takes as on the machine that was measured.
    """

    def __init__(self, times: float = 1.0, most: int = 512) -> None:
        self._seconds = [0.0]
        for (low, first), (high, last) in pairwise(MEASURED.items()):
            each = (last - first) / (high - low)
            self._seconds += [times * (first + each * place) for place in range(high - low)]
        last, each = times * MEASURED[256], times * MEASURED[256] / 256
        self._seconds += [last + each * place for place in range(most - 256 + 1)]
        self._each, self._most = each, most

    def seconds(self, decoding: int, entering: int) -> float:
        """Of a step with the next token of so many rows, and so many tokens of prompts."""
        count = decoding + entering
        if count <= self._most:
            return self._seconds[count]
        return self._seconds[-1] + self._each * (count - self._most)
