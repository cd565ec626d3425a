"""What an evaluation found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

from sc2onnx.evaluate.interval import Estimate
from sc2onnx.evaluate.measure import Difference
from sc2onnx.evaluate.source import About
from sc2onnx.evaluate.suite.scores import SuiteReport
from sc2onnx.runtime.text.fim import FimOrder


@dataclass(frozen=True, slots=True)
class Answer:
    """One span: what stood there, what the model wrote (cut to as many lines), and how alike they
    are, blanks at line ends aside.
    """

    file: str
    kind: str
    truth: str
    completion: str
    exact: bool
    similarity: float


@dataclass(frozen=True, slots=True)
class InfillScore:
    """Over the spans: share of exact matches, and mean edit similarity (1 - Levenshtein
    distance / length of the longer).
    """

    spans: int
    exact_match: float
    edit_similarity: float
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """One bundle. ``nll``: mean of the scored tokens, nats; ``difference``: to the
    reference, where there is one; ``estimates``: figures with intervals, by the names that
    :func:`sc2onnx.evaluate.estimates.estimates` has.
    """

    about: About
    nll: float
    perplexity: float
    bits_per_byte: float
    difference: Difference | None
    infill: InfillScore | None
    estimates: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReferenceScore:
    """The reference itself, on the same tokens."""

    about: About
    nll: float
    perplexity: float
    bits_per_byte: float
    infill: InfillScore | None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything. ``files``: those scored; ``positions``: tokens scored; ``nbytes``: of text they
    stand for; ``length``: of a window.

    ``seed`` and ``order`` are those of infilling and of the suite. ``resampled``: what intervals
    draw again, files or windows.
    """

    files: tuple[str, ...]
    positions: int
    nbytes: int
    length: int
    seed: int
    order: FimOrder
    scores: tuple[Score, ...]
    reference: ReferenceScore | None
    resampled: str = "windows"
    suite: SuiteReport | None = None

    def figures(self) -> dict[str, Any]:
        """For JSON: numbers that are not finite are None."""
        found = _finite(asdict(self))
        assert isinstance(found, dict)
        return found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
