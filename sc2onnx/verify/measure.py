"""How far two sets of logits are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Difference:
    """Logits against reference logits over some positions.

    ``max_rel_diff`` is the largest absolute difference over the largest absolute reference logit. ``kl_divergence``
    (reference to ours), ``nll`` and ``nll_reference`` are means in nats; the latter two over the positions whose next
    token is known, 0 if there is none. ``top1_agreement`` is a fraction.
    """

    positions: int
    max_abs_diff: float
    max_rel_diff: float
    kl_divergence: float
    top1_agreement: float
    nll: float
    nll_reference: float


def compare(ours: Floats, reference: Floats, following: npt.NDArray[np.int64]) -> Difference:
    """ours, reference: (n, vocab); following: the tokens (up to n) that come after the first so many positions."""
    absolute = float(np.abs(ours - reference).max())
    p, q = _log_softmax(reference), _log_softmax(ours)
    known = np.arange(len(following))
    return Difference(
        positions=len(ours),
        max_abs_diff=absolute,
        max_rel_diff=absolute / float(np.abs(reference).max()),
        kl_divergence=float((np.exp(p) * (p - q)).sum(axis=-1).mean()),
        top1_agreement=float((ours.argmax(-1) == reference.argmax(-1)).mean()),
        nll=float(-q[known, following].mean()) if len(known) else 0.0,
        nll_reference=float(-p[known, following].mean()) if len(known) else 0.0,
    )


def pool(parts: Sequence[Difference]) -> Difference:
    """Worst of the differences, means weighted by positions."""
    weights = [part.positions for part in parts]

    def mean(name: str) -> float:
        return float(np.average([getattr(part, name) for part in parts], weights=weights))

    return Difference(
        sum(weights),
        max(part.max_abs_diff for part in parts),
        max(part.max_rel_diff for part in parts),
        mean("kl_divergence"),
        mean("top1_agreement"),
        mean("nll"),
        mean("nll_reference"),
    )


def _log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
