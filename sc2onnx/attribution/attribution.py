"""An index, and what counts as a repetition of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from os import PathLike
from typing import Self

from sc2onnx.attribution.index import Index
from sc2onnx.attribution.match import Match
from sc2onnx.attribution.repetitions import USUAL_FILES, USUAL_LEAST, Rules


@dataclass(frozen=True, slots=True)
class Attribution:
    """Finds what completions repeat of the files of an ``index``, by the ``rules``."""

    index: Index
    rules: Rules = field(default_factory=Rules)

    @classmethod
    def open(
        cls, path: str | PathLike[str], least: int = USUAL_LEAST, most_files: int = USUAL_FILES
    ) -> Self:
        """The index of a file; 0 of ``most_files`` stands for any number.

        Raises :class:`~sc2onnx.errors.RequestError`.
        """
        rules = Rules(least=least, most_files=most_files or None)
        return cls(Index.open(path), rules)

    def of(self, text: str, prompts: Iterable[str]) -> list[Match]:
        """What a completion repeats, but for what stands in the ``prompts`` that it came from."""
        return self.index.matches(text, prompts=prompts, rules=self.rules)
