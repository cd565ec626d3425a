"""How far two sets of logits are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

FIGURES: Final = ("max_abs_diff", "max_rel_diff", "kl_divergence", "top1_agreement", "nll", "nll_reference")


@dataclass(frozen=True, slots=True)
class Difference:
    """Logits against reference logits over some positions.

    ``max_rel_diff`` is the largest absolute difference over the largest absolute reference logit. ``kl_divergence``
    (reference to ours), ``nll`` and ``nll_reference`` are means in nats; the latter two over the ``known`` positions, those
    whose next token is known, 0 if there is none. ``top1_agreement`` is a fraction. Logits that are not numbers make the
    figures that they touch not numbers, never good ones.
    """

    positions: int
    known: int
    max_abs_diff: float
    max_rel_diff: float
    kl_divergence: float
    top1_agreement: float
    nll: float
    nll_reference: float

    def figures(self) -> dict[str, float | None]:
        """The figures by name, None for those that are not numbers, as JSON wants it."""
        values = {name: getattr(self, name) for name in FIGURES}
        return {name: value if isfinite(value) else None for name, value in values.items()}


def compare(ours: Floats, reference: Floats, following: npt.NDArray[np.int64]) -> Difference:
    """ours, reference: (n, vocab); following: the tokens (up to n) that come after the first so many positions."""
    absolute = float(np.abs(ours - reference).max())
    p, q = _log_softmax(reference), _log_softmax(ours)
    known = np.arange(len(following))
    return Difference(
        positions=len(ours),
        known=len(following),
        max_abs_diff=absolute,
        max_rel_diff=absolute / max(float(np.abs(reference).max()), float(np.finfo(np.float32).tiny)),
        kl_divergence=float((np.exp(p) * (p - q)).sum(axis=-1).mean()),
        top1_agreement=float((ours.argmax(-1) == reference.argmax(-1)).mean()),
        nll=float(-q[known, following].mean()) if len(known) else 0.0,
        nll_reference=float(-p[known, following].mean()) if len(known) else 0.0,
    )


def pool(parts: Sequence[Difference]) -> Difference:
    """Worst of the differences, means weighted by positions. Numpy's maximum, because Python's would lose a NaN."""

    def column(name: str) -> npt.NDArray[np.float64]:
        return np.array([getattr(part, name) for part in parts], dtype=np.float64)

    def mean(name: str, weights: npt.NDArray[np.float64]) -> float:
        return float((column(name) * weights).sum() / max(weights.sum(), 1.0))

    positions, known = column("positions"), column("known")
    return Difference(
        positions=int(positions.sum()),
        known=int(known.sum()),
        max_abs_diff=float(column("max_abs_diff").max()),
        max_rel_diff=float(column("max_rel_diff").max()),
        kl_divergence=mean("kl_divergence", positions),
        top1_agreement=mean("top1_agreement", positions),
        nll=mean("nll", known),
        nll_reference=mean("nll_reference", known),
    )


def _log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
