"""What the user wants of calibration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sc2onnx.errors import RequestError
from sc2onnx.export.quantize import corpus
from sc2onnx.export.quantize.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Calibration:
    """Whether to calibrate, and on what text.

    ``wanted`` None leaves it to the recipe, ``files`` None takes the shipped text. ``tokens`` None
    is :data:`~sc2onnx.export.quantize.corpus.DEFAULT_TOKENS`, and asks for nothing.
    """

    wanted: bool | None = None
    files: tuple[Path, ...] | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        if self.files is not None and not self.files:
            expected = "one at least, or None for the text that sc2onnx ships"
            raise RequestError(f"calibration is on no files, expected {expected}")
        if self.wanted is False and self._asked:
            found = "calibration is switched off and given a text or a number of tokens"
            raise RequestError(f"{found}, expected either")
        if self.tokens is not None and self.tokens < corpus.LENGTH:
            found = f"calibration is on {self.tokens} tokens"
            raise RequestError(f"{found}, expected {corpus.LENGTH} at least")

    @property
    def length(self) -> int:
        """Tokens of the text."""
        return corpus.DEFAULT_TOKENS if self.tokens is None else self.tokens

    @property
    def _asked(self) -> bool:
        return self.files is not None or self.tokens is not None

    def applies(self, recipe: Recipe | None) -> bool:
        """Whether weights are rounded with the statistics of a text.

        Raises :class:`RequestError` if that was asked for in vain.
        """
        if recipe is None and (self.wanted or self._asked):
            found = "calibration is asked for where nothing is rounded to integers"
            raise RequestError(f"{found}, expected precision int4, int8 or a recipe")
        if recipe is None:
            return False
        wanted = recipe.calibrate if self.wanted is None else self.wanted
        applies = self.files is not None or wanted
        if self._asked and not applies:
            found = f"calibration is on {self.tokens} tokens where nothing is calibrated"
            raise RequestError(f"{found}, expected --calibration FILE as well")
        return applies
