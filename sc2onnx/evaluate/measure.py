"""How far two sets of logits are apart: the one measure of ``verify`` and ``evaluate``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, isfinite, nan, sqrt
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

FIGURES: Final = (
    "max_abs_diff",
    "max_rel_diff",
    "kl_divergence",
    "top1_agreement",
    "nll",
    "nll_reference",
)
"""What a verified bundle keeps in its manifest."""

_TOP: Final = 5


@dataclass(frozen=True, slots=True)
class Difference:
    """Logits against reference logits over some positions.

    ``largest`` is the largest absolute reference logit of all positions, whatever steps they
    came in. ``kl_divergence`` (reference to ours), ``nll`` and ``nll_reference`` are means in
    nats; the latter two over the ``known`` positions, those whose next token is known, 0 if
    there is none. ``top1_agreement`` is a fraction. ``top5_overlap`` is the mean share of the
    reference's five likeliest tokens that are among our five, in any order: unlike "the
    reference's first choice is among our five", which every usable bundle passes at nearly every
    position, it tells good bundles apart. ``power`` and ``power_reference`` are mean squares, of
    the differences and of the reference logits; each position's own mean over the vocabulary, which
    softmax ignores, is taken off before. Logits that are not numbers make the figures that they
    touch not numbers, never good ones.
    """

    positions: int
    known: int
    max_abs_diff: float
    largest: float
    kl_divergence: float
    top1_agreement: float
    nll: float
    nll_reference: float
    top5_overlap: float
    power: float = nan
    power_reference: float = nan

    @property
    def rms_rel_diff(self) -> float:
        """The root mean square of the differences over that of the reference logits."""
        return sqrt(self.power / max(self.power_reference, float(np.finfo(np.float32).tiny)))

    @property
    def max_rel_diff(self) -> float:
        """The largest absolute difference over the largest absolute reference logit."""
        return self.max_abs_diff / max(self.largest, float(np.finfo(np.float32).tiny))

    def figures(self) -> dict[str, float | None]:
        """:data:`FIGURES` by name, None for those that are not numbers, as JSON wants it."""
        values = {name: getattr(self, name) for name in FIGURES}
        return {name: value if isfinite(value) else None for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class Parting:
    """Where greedy decoding first differs: after how many tokens, and how far apart the reference's
    logits of both tokens are.

    ``gap`` is of the largest absolute reference logit there; infinite where ours are not numbers.
    """

    after: int
    gap: float


def part(ours: Iterable[int], reference: Sequence[int], logits: Floats) -> Parting | None:
    """The first difference of ``ours`` from the reference's tokens (n,), chosen by its logits (n,
    vocab); None if there is none.
    """
    after, given = 0, iter(ours)
    for after, (expected, row) in enumerate(zip(reference, logits, strict=True)):
        token = next(given, None)
        if token is None:
            return Parting(after, inf)
        if token != expected:
            return Parting(after, float((row[expected] - row[token]) / np.abs(row).max()))
    return None


def compare(ours: Floats, reference: Floats, following: npt.NDArray[np.int64]) -> Difference:
    """ours, reference: (n, vocab); following: the tokens (up to n) that come after
    the first so many positions.
    """
    p, q = _log_softmax(reference), _log_softmax(ours)
    known = np.arange(len(following))
    return Difference(
        positions=len(ours),
        known=len(following),
        max_abs_diff=float(np.abs(ours - reference).max()),
        largest=float(np.abs(reference).max()),
        kl_divergence=float((np.exp(p) * (p - q)).sum(axis=-1).mean()),
        top1_agreement=float((ours.argmax(-1) == reference.argmax(-1)).mean()),
        nll=float(-q[known, following].mean()) if len(known) else 0.0,
        nll_reference=float(-p[known, following].mean()) if len(known) else 0.0,
        top5_overlap=float(_overlap(q, p).mean()),
        power=float((ours - reference).var(axis=-1).mean()),
        power_reference=float(reference.var(axis=-1).mean()),
    )


def token_nll(logits: Floats, following: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """logits: (n, vocab); following: (n,), the tokens that come after them -> negative
    log-likelihood of each, (n,), nats.
    """
    return np.asarray(-_log_softmax(logits)[np.arange(len(following)), following])


def pool(parts: Sequence[Difference]) -> Difference:
    """Worst of the differences, means weighted by positions.
    Numpy's maximum, because Python's would lose a NaN.
    """

    def column(name: str) -> npt.NDArray[np.float64]:
        return np.array([getattr(part, name) for part in parts], dtype=np.float64)

    def mean(name: str, weights: npt.NDArray[np.float64]) -> float:
        return float((column(name) * weights).sum() / max(weights.sum(), 1.0))

    positions, known = column("positions"), column("known")
    return Difference(
        positions=int(positions.sum()),
        known=int(known.sum()),
        max_abs_diff=float(column("max_abs_diff").max()),
        largest=float(column("largest").max()),
        kl_divergence=mean("kl_divergence", positions),
        top1_agreement=mean("top1_agreement", positions),
        nll=mean("nll", known),
        nll_reference=mean("nll_reference", known),
        top5_overlap=mean("top5_overlap", positions),
        power=mean("power", positions),
        power_reference=mean("power_reference", positions),
    )


def _overlap(
    ours: npt.NDArray[np.float64], reference: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Share of the reference's likeliest tokens that are among ours, (n,); not a
    number where a row is not.
    """
    count = min(_TOP, ours.shape[-1])
    best = [_best(values, count) for values in (ours, reference)]
    shared = (best[0][:, :, None] == best[1][:, None, :]).sum(axis=(1, 2)) / count
    return np.where(np.isnan(ours).any(axis=-1) | np.isnan(reference).any(axis=-1), np.nan, shared)


def _best(values: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """Where the ``count`` largest of each row are, (n, count).
    Five maxima take a tenth of the time of a partition.
    """
    left, rows, found = values.copy(), np.arange(len(values)), list[npt.NDArray[np.int64]]()
    for _ in range(count):
        found.append(left.argmax(axis=-1))
        left[rows, found[-1]] = -np.inf
    return np.stack(found, axis=1)


def _log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
