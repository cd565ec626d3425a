"""When a bundle passes: one rule per precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Final, Literal

from sc2onnx.evaluate.measure import Difference, Parting

TOLERANCE: Final = 1e-5
"""Largest logit difference of an fp32 bundle, of the largest logit; torch's own error
against float64 is about 1e-6.
"""

UNIT_ROUNDOFF: Final[Mapping[str, float]] = {"fp16": 2.0**-11, "bf16": 2.0**-8}
"""Largest relative error of rounding once to 11 and 8 significant bits."""

ACTIVATIONS: Final[Mapping[str, str]] = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
"""Type of the cache, which is that of the activations -> how precisions call it."""

_ROUNDING: Final = 0.425
"""Root mean square of one rounding's relative error, in unit roundoffs: ``sqrt(E[1 / m^2] / 3)``
for m log-uniform in [1, 2).
"""

_CHAIN: Final = 10
"""Roundings that the noise of a branch and of the head is made of: weights, norm, product,
activation or rotation, product, logits.
"""

_PEAK: Final = 8.0
"""The largest error over the root mean square error, times what attention amplifies; measured: 5.3
at most, 6.1 in torch's own half precision.
"""

_USUAL: Final = 3.0
"""The largest root mean square error over the one that is expected; measured: 1.2 at most."""

_CREST: Final = 4.0
"""Largest magnitude of a block of activations over their root mean square: 2.5 for normally
distributed ones, more behind a GELU.
"""


@dataclass(frozen=True, slots=True)
class Criterion:
    """A bundle passes if ``figure``, of :class:`Difference`, is at most ``tolerance``, and its
    greedy tokens agree with torch's.

    ``greedy``: ``all`` of them; or up to ``near ties``, where torch's logits of its token and of
    ours differ by no more than the tolerance allows two logits to move against each other; or
    they are only ``reported``. ``usual``: what ``rms_rel_diff`` is at most besides, None where the
    largest difference says enough: an error that all logits share is seen there long before it is
    larger than the largest one that rounding makes.
    """

    figure: str
    tolerance: float
    greedy: Literal["all", "near ties", "reported"]
    usual: float | None = None

    def passes(self, difference: Difference, parting: Parting | None) -> bool:
        """``parting``: where greedy decoding first differs, None if nowhere.
        Figures that are not numbers fail.
        """
        if (
            None in difference.figures().values()
            or not getattr(difference, self.figure) <= self.tolerance
        ):
            return False
        if self.usual is not None and not difference.rms_rel_diff <= self.usual:
            return False
        if parting is None or self.greedy == "reported":
            return True
        return self.greedy == "near ties" and parting.gap <= 2 * self.tolerance


def criterion(activations: str, layers: int, quantised: bool = False) -> Criterion:
    """The rule for a type of activations: fp32 by :data:`TOLERANCE`, fp16 and bf16 by
    :func:`half_tolerance`, whatever the weights are.

    ``quantised``: weights are integers. Beside activations in fp32 these are multiplied as int8:
    :func:`integer_tolerance` and :func:`integer_usual`.
    """
    if activations in UNIT_ROUNDOFF:
        return Criterion("max_rel_diff", half_tolerance(activations, layers), "near ties")
    if quantised:
        return Criterion("max_rel_diff", integer_tolerance(), "reported", integer_usual())
    return Criterion("max_rel_diff", TOLERANCE, "all")


def half_tolerance(precision: str, layers: int) -> float:
    """Largest logit difference that rounding alone explains, of the largest logit:
    ``8 * 0.425 u sqrt(layers + 10)``.

    One rounding has a relative error of 0.425 u in the root mean square. The residual stream is
    rounded 2 L times, at sizes that grow with the square root of the branches added so far, so the
    variances of these roundings add up to L + 1 of the last one's. A branch's own roundings (and
    the head's) are relative to what it adds, so they count once however many branches there are:
    about 9 more. The largest of a million such errors, over the largest of as many logits, is the
    same multiple again, but for what attention amplifies: errors of its scores are errors of the
    logarithms of its weights. Worked example: bf16, 6 layers:
    ``8 * 0.425 * 2^-8 * sqrt(16) = 0.053``; measured on the mini checkpoint: 0.010. Measured for
    all shapes, beside torch's own half precision: docs/decisions/0006-half-precision.md.
    """
    return _PEAK * _ROUNDING * UNIT_ROUNDOFF[precision] * sqrt(layers + _CHAIN)


def integer_tolerance() -> float:
    """Largest logit difference that rounding activations to int8 explains, of the largest logit:
    ``8 * 4 / (127 sqrt(12)) * sqrt(3)``.

    The reference has the bundle's own weights, so what differs are the inputs of each
    product, which the kernel rounds to multiples of a block's largest magnitude / 127: an
    error of ``crest / (127 sqrt(12))`` of their root mean square. The residual stream is not
    rounded, and errors relative to what each branch adds count once however many branches
    there are, as for half precision: two products in a branch, and the head. = 0.126;
    measured on the mini checkpoint: 0.020.
    """
    return _PEAK * _integer_error()


def integer_usual() -> float:
    """Root mean square of the logits' errors that rounding activations to int8 explains, over that
    of the logits: three times ``4 / (127 sqrt(12)) * sqrt(3)``, = 0.047; see
    :func:`integer_tolerance`. Measured on the mini checkpoint: 0.015 to 0.019. A final norm whose
    biases are all off by 0.5 makes 0.20, and a largest error of 0.11, which would pass.
    """
    return _USUAL * _integer_error()


def _integer_error() -> float:
    return _CREST / (127 * sqrt(12)) * sqrt(3)
