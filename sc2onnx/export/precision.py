"""What an export is asked for: a precision and a target that go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import ml_dtypes
import numpy as np

from sc2onnx.bundle import targets
from sc2onnx.bundle.facts import CacheLayout
from sc2onnx.bundle.targets import Target
from sc2onnx.errors import RequestError
from sc2onnx.export.quantize.recipe import PRESETS, PRESETS_BY_DEVICE, Recipe, recipe

TARGETS: Final = tuple(targets.TARGETS)
"""Names of what bundles can be made for (:mod:`sc2onnx.bundle.targets`)."""

_DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
}
FLOATS: Final = tuple(_DTYPES)
PRECISIONS: Final = (*FLOATS, *PRESETS)

_SLOW: Final[Mapping[str, str]] = {
    ("fp16"): (
        "ONNX Runtime's CPU provider computes fp16 through casts to fp32, slower than fp32 itself"
    ),
    "bf16": "ONNX Runtime's CPU provider has no bf16 kernels",
}
"""The precisions that a CPU cannot run well, and why."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A precision (one of :data:`PRECISIONS`, or a recipe in a ``.json`` file) and
    the target that it is for.

    A recipe is read once, here: its file may change while an export is at work. Raises
    :class:`RequestError` if there is no such thing, or if they do not go together.
    """

    precision: str
    target: str = "cpu"
    _recipe: Recipe | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS and not self.precision.endswith(".json"):
            raise RequestError(
                f"precision is {self.precision!r}, expected one of {', '.join(PRECISIONS)}, or a "
                "recipe in a .json file"
            )
        made_for = self.made_for
        if self.precision in FLOATS and self.precision not in made_for.floats:
            found = f"precision is {self.precision!r} for target {self.target!r}"
            raise RequestError(f"{found}, {_unfit(self.precision)}")
        presets = PRESETS_BY_DEVICE[made_for.device]
        if self.precision in PRESETS and self.precision not in presets:
            raise RequestError(
                f"precision is {self.precision!r} for target {self.target!r}, expected one of "
                f"{', '.join((*_SLOW, *presets))}"
            )
        chosen = None if self.precision in FLOATS else recipe(self.precision, presets)
        object.__setattr__(self, "_recipe", chosen)
        if chosen is not None and chosen.name in PRECISIONS and chosen != presets.get(chosen.name):
            raise RequestError(
                f"the recipe {self.precision} is called {chosen.name!r}, which means another "
                "precision: give it a name of its own"
            )
        if made_for.transposed and chosen is not None and chosen.head.bits != 8:
            raise RequestError(
                f"the head has {chosen.head.bits} bits for target {self.target!r}, expected 8: no "
                "standard operator gathers packed codes"
            )

    @property
    def made_for(self) -> Target:
        """The record of the target. Raises :class:`RequestError` if there is no such thing."""
        return targets.target(self.target)

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
        integers = np.dtype(self.made_for.floating)
        return _DTYPES.get(self.precision, integers)

    @property
    def scales(self) -> np.dtype[Any]:
        """Type of the scales of integers, as stored."""
        return np.dtype(self.made_for.scales)

    @property
    def read_as(self) -> np.dtype[Any]:
        """Type that the checkpoint is read in: what is rounded to integers is not rounded
        to half precision before.
        """
        return self.dtype if self.recipe() is None else np.dtype(np.float32)

    @property
    def cache(self) -> CacheLayout:
        """How the graph keeps keys and values: as the attention that its target has kernels for."""
        return CacheLayout(self.made_for.cache, self.dtype.name)


def _unfit(precision: str) -> str:
    """Why a precision without integers is not for a target, and what to choose."""
    if reason := _SLOW.get(precision):
        return (
            f"where it would be slow ({reason}): choose fp32, int8 or int4, "
            "or a GPU (--target cuda)"
        )
    remedy = "choose --precision fp16, bf16, int8 or int4"
    return f"whose attention has kernels in half precision only: {remedy}"
