"""What picks tokens."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt


class Chooser(Protocol):
    """Something that picks tokens: a :class:`~sc2onnx.runtime.choose.sampling.Sampler`, or a
    benchmark that knows the text.
    """

    def draw(self, logits: npt.NDArray[np.float32]) -> int:
        """A token from logits (vocab,)."""
        ...
