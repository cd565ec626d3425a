"""Figures of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np


def milliseconds(seconds: Sequence[float]) -> str:
    """Median and 95th percentile."""
    return f"{1e3 * median(seconds):.1f} (p95 {1e3 * float(np.percentile(seconds, 95)):.1f})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Median of the ratios, one by one, and the ratio of the 95th percentiles."""
    each = median(a / b for a, b in zip(ours, theirs, strict=True))
    tail = float(np.percentile(ours, 95) / np.percentile(theirs, 95))
    return f"{each:.3f} (p95 {tail:.3f})"
