"""Figures over windows, with intervals, and what one bundle has beside another on the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sc2onnx.evaluate.interval import Draws, Estimate, Groups
from sc2onnx.evaluate.measure import Difference

_MEANS: Final = ("kl_divergence", "top1_agreement", "top5_overlap")


@dataclass(frozen=True, slots=True)
class WindowScore:
    """A window: its positions, their mean negative log-likelihood in nats, and the difference to a
    reference, where there is one.
    """

    positions: int
    nll: float
    difference: Difference | None


def groups(owners: Sequence[int]) -> Groups:
    """What is drawn again: files, if there are enough, or else windows. ``owners``: the file of
    each window.
    """
    return Groups.by_file(owners, "windows")


def estimates(
    found: Sequence[WindowScore], first: Sequence[WindowScore] | None, draws: Draws
) -> dict[str, Estimate]:
    """Figures of a bundle by their names: ``nll``, and with a reference ``kl_divergence``,
    ``top1_agreement``, ``top5_overlap`` and ``nll_increase``, over the reference's NLL.

    ``first``: the windows of the bundle that others are compared with; then also
    ``nll_above_first``, and with a reference ``kl_divergence_over_first``, a quotient.
    """
    weights = [window.positions for window in found]
    nlls = [window.nll for window in found]
    result = {"nll": draws.mean(nlls, weights)}
    parts = [window.difference for window in found if window.difference]
    if parts:
        for name in _MEANS:
            result[name] = draws.mean([getattr(part, name) for part in parts], weights)
        references = [part.nll_reference for part in parts]
        result["nll_increase"] = draws.difference(nlls, references, weights)
    if first is not None:
        result["nll_above_first"] = draws.difference(nlls, [each.nll for each in first], weights)
        theirs = [each.difference.kl_divergence for each in first if each.difference]
        if parts and theirs:
            ours = [part.kl_divergence for part in parts]
            result["kl_divergence_over_first"] = draws.ratio(ours, theirs, weights)
    return result
