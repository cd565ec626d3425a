"""What an export is asked for: a precision and a target that go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import ml_dtypes
import numpy as np

from sc2onnx.errors import RequestError
from sc2onnx.export.quantize.recipe import PRESETS, Recipe, recipe
from sc2onnx.manifest import RING, CacheLayout

TARGETS: Final = ("cpu", "portable", "cuda")
"""``cpu``: ONNX Runtime on a CPU, with its own operators; ``portable``: standard operators only; ``cuda``: ONNX Runtime on a GPU."""

_DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
}
FLOATS: Final = tuple(_DTYPES)
PRECISIONS: Final = (*FLOATS, *PRESETS)

_SLOW: Final[Mapping[str, str]] = {
    "fp16": "ONNX Runtime's CPU provider computes fp16 through casts to fp32, slower than fp32 itself",
    "bf16": "ONNX Runtime's CPU provider has no bf16 kernels",
}
"""The precisions that a CPU cannot run well, and why."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A precision (one of :data:`PRECISIONS`, or a recipe in a ``.json`` file) and the target that it is for.

    A recipe is read once, here: its file may change while an export is at work. Raises :class:`RequestError` if there is no such thing,
    or if they do not go together.
    """

    precision: str
    target: str = "cpu"
    _recipe: Recipe | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS and not self.precision.endswith(".json"):
            raise RequestError(f"precision is {self.precision!r}, expected one of {', '.join(PRECISIONS)}, or a recipe in a .json file")
        if self.target not in TARGETS:
            raise RequestError(f"target is {self.target!r}, expected one of {', '.join(TARGETS)}")
        if self.target != "cuda" and (reason := _SLOW.get(self.precision)):
            raise RequestError(
                f"precision is {self.precision!r} for target {self.target!r}, where it would be slow ({reason}): "
                "choose fp32, int8 or int4, or a GPU (--target cuda)"
            )
        if self.target == "cuda" and self.precision not in FLOATS:
            raise RequestError(f"precision is {self.precision!r} for target 'cuda', which this version exports in {', '.join(FLOATS)} only")
        chosen = None if self.precision in FLOATS else recipe(self.precision)
        object.__setattr__(self, "_recipe", chosen)
        if chosen is not None and chosen.name in PRECISIONS and chosen != PRESETS.get(chosen.name):
            raise RequestError(f"the recipe {self.precision} is called {chosen.name!r}, which means another precision: give it a name of its own")
        if self.target == "portable" and chosen is not None and chosen.head.bits != 8:
            raise RequestError(f"the head has {chosen.head.bits} bits for target 'portable', expected 8: no standard operator gathers packed codes")

    def recipe(self) -> Recipe | None:
        """How to quantise; None for floats."""
        return self._recipe

    @property
    def name(self) -> str:
        """The precision as the manifest calls it: a recipe by its own name."""
        chosen = self.recipe()
        return self.precision if chosen is None else chosen.name

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of activations, cache, and of the weights that are not quantised."""
        return _DTYPES.get(self.precision, np.dtype(np.float32))

    @property
    def cache(self) -> CacheLayout:
        """How the graph keeps keys and values."""
        return CacheLayout(RING, self.dtype.name)
