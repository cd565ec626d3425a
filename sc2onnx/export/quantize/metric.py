"""Which errors of a product's outputs the model minds.

Errors dy of the outputs change what the model says by half the mean square of ``g . dy``, to second
order, g the gradients of the log probabilities of tokens that it draws itself. So, as in YAQA
(Tseng et al. 2025), ``tr(G E H E^T)`` stands for the divergence that weights lost by E cause: H the
covariance of inputs, G that of gradients, as if the two had nothing to do with each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from sc2onnx.export.quantize.codec import Floats

METRIC_DAMPING: Final = 1.0
"""Added to G's diagonal, of its mean: a few gradients do not show every direction."""

WIDEST: Final = 4096
"""Outputs of the widest product that gets a metric: beyond it, G costs much and says little, since
its directions are about alike (docs/decisions/0008-calibration.md).
"""


def kept_bytes(outputs: Iterable[int], tokens: int) -> int:
    """Bytes of the gradients of so many tokens, in half precision, by outputs of the products."""
    return sum(2 * tokens * out for out in outputs if out <= WIDEST)


def output_metric(gradients: npt.NDArray[np.floating]) -> Floats:
    """G (out, out), damped, of gradients (tokens, out) of any scale.

    Where all of them are zeros, every output counts alike.
    """
    rows = gradients.astype(np.float32)
    found = np.asarray(rows.T @ rows, dtype=np.float32)
    found /= np.float32(max(float(np.diag(found).mean()), 1e-37))
    found[np.diag_indices_from(found)] += np.float32(METRIC_DAMPING)
    return found
