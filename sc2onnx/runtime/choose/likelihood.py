"""What the model itself says of tokens: log probabilities, and the most likely ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def log_probability(logits: npt.NDArray[np.float32], token: int) -> float:
    """Natural log of the model's own probability of ``token`` (no temperature, no
    filters). logits: (vocab,).
    """
    return log_probabilities(logits, [token])[0]


def log_probabilities(
    logits: npt.NDArray[np.float32], tokens: Sequence[int] | npt.NDArray[np.int64]
) -> list[float]:
    """The same of several ``tokens``, over one sum of the vocabulary. logits: (vocab,)."""
    shifted = (logits - logits.max()).astype(np.float64)
    found: list[float] = (shifted[tokens] - np.log(np.exp(shifted).sum())).tolist()
    return found


def likeliest(logits: npt.NDArray[np.float32], count: int) -> tuple[tuple[int, float], ...]:
    """The ``count`` most likely tokens and their log probabilities, as :func:`log_probability` has
    them; the lower id first where two are equal. logits: (vocab,).
    """
    count = min(count, len(logits))
    if not count:
        return ()
    least = np.partition(logits, -count)[-count]
    found = np.flatnonzero(logits >= least)
    found = found[np.argsort(-logits[found], kind="stable")][:count]
    return tuple(zip(found.tolist(), log_probabilities(logits, found), strict=True))
