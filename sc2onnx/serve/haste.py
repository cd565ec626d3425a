"""Prompts that somebody waits for: how many tokens there is time for.

After a move of the cursor, or in a file that was just opened, hardly anything of a prompt is
computed. At the 3B shape 2,000 tokens take two cores 8 seconds, and nobody waits for that. So a
request may say how long its prompt may take: it is cut to what is nearest to the cursor then, and
the whole of it is computed behind everybody's back, for the keys that follow.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable
from typing import Final

import numpy as np

from sc2onnx.runtime.model import Model
from sc2onnx.runtime.prompts import Prompt

LEAST: Final = 64
"""Tokens of a prompt that is cut, however long they take: with fewer there is nothing to go by."""


def tokens_in(model: Model, prompt: Prompt, owner: Hashable, seconds: float) -> int | None:
    """Tokens that a prompt may have, to be computed within so many ``seconds``; None: all of them,
    because most are computed already, or because nothing was measured so far. ``owner``: whose
    caches serve it.
    """
    costs = model.engine.steps.costs
    if not costs.steps.known:
        return None
    ids = np.asarray(prompt.ids, dtype=np.int64)
    left = len(ids) - model.engine.store.reach(ids, owner)
    if costs.seconds(0, left) <= seconds:
        return None
    most = bisect_right(range(1, left + 1), seconds, key=lambda count: costs.seconds(0, count))
    cut = steady(most)
    return cut if cut < len(ids) else None


def steady(most: int) -> int:
    """Tokens of a cut prompt, for which there is time for ``most``: a power of two, so that keys
    are cut alike and each finds computed what the one before left. Costs are never measured twice
    the same, and a cut that follows them reuses nothing. Worked example: 150 is 128, and so is 130.
    """
    return max(LEAST, 1 << max(0, most.bit_length() - 1))
