"""What an export is asked for: a precision and a target that go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import ml_dtypes
import numpy as np

from sc2onnx.bundle.contract import GROWING, LINEAR, OTHER_TARGETS, RING
from sc2onnx.bundle.facts import CacheLayout
from sc2onnx.errors import RequestError
from sc2onnx.export.quantize.recipe import CUDA_PRESETS, PRESETS, Recipe, recipe

OWN_TARGETS: Final = ("cpu", "portable", "cuda")
"""``cpu``: ONNX Runtime on a CPU, with its own operators; ``portable``: standard operators only; ``cuda``: ONNX Runtime on a GPU."""

TARGETS: Final = (*OWN_TARGETS, *OTHER_TARGETS)
"""And other runtimes over ONNX Runtime: ``genai``, onnxruntime-genai, in half precision on a GPU; ``optimum``, and what else follows transformers."""

_KINDS: Final[Mapping[str, str]] = {"cpu": RING, "portable": RING, "cuda": LINEAR, "genai": LINEAR, "optimum": GROWING}

_ON_A_GPU: Final = ("cuda", "genai")
"""Targets that half precision is for."""

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
        if self.target not in _ON_A_GPU and (reason := _SLOW.get(self.precision)):
            raise RequestError(
                f"precision is {self.precision!r} for target {self.target!r}, where it would be slow ({reason}): "
                "choose fp32, int8 or int4, or a GPU (--target cuda)"
            )
        presets = CUDA_PRESETS if self.target == "cuda" else PRESETS
        if self.target == "cuda" and self.precision == "fp32":
            raise RequestError(
                "precision is 'fp32' for target 'cuda', whose attention has kernels in half precision only: "
                "choose --precision fp16, bf16, int8 or int4"
            )
        if self.precision in PRESETS and self.precision not in presets:
            raise RequestError(f"precision is {self.precision!r} for target {self.target!r}, expected one of {', '.join((*_SLOW, *presets))}")
        chosen = None if self.precision in FLOATS else recipe(self.precision, presets)
        object.__setattr__(self, "_recipe", chosen)
        if chosen is not None and chosen.name in PRECISIONS and chosen != presets.get(chosen.name):
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
        integers = np.dtype(np.float16 if self.target == "cuda" else np.float32)
        return _DTYPES.get(self.precision, integers)

    @property
    def read_as(self) -> np.dtype[Any]:
        """Type that the checkpoint is read in: what is rounded to integers is not rounded to half precision before."""
        return self.dtype if self.recipe() is None else np.dtype(np.float32)

    @property
    def cache(self) -> CacheLayout:
        """How the graph keeps keys and values: as the attention that its target has kernels for."""
        return CacheLayout(_KINDS[self.target], self.dtype.name)
