"""Activations of the same text in two models, side by side: the original, and ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.schemes import Scheme
from sc2onnx.errors import CheckpointError
from sc2onnx.export.quantize.codec import Floats, dequantise, quantise
from sc2onnx.export.weights import LazyWeight

BATCH_TOKENS: Final = 3072
"""Tokens computed at once: their widest activations are the temporary memory of a forward pass."""

ORIGINAL_TOKENS: Final = 20480
"""At most so many tokens go through the original as well, in windows spread over the text: what
ours lacks shows on fewer of them than its inputs' second moments do
(docs/decisions/0008-calibration.md).
"""

Windows = npt.NDArray[np.int64]
Pair = tuple[Floats | None, Floats]
"""Activations of a batch in the original, where that is computed, and in ours."""


@dataclass(frozen=True, slots=True)
class Streams:
    """Activations (windows, length, channels) of both models, changed in place.

    ``original`` has the first windows only.
    """

    original: Floats
    ours: Floats

    def batches(self) -> Iterator[slice]:
        """Ranges of windows, each in the original altogether or not at all."""
        count, length, _ = self.ours.shape
        step = max(1, BATCH_TOKENS // length)
        both = len(self.original)
        for first, stop in ((0, both), (both, count)):
            for start in range(first, stop, step):
                yield slice(start, min(start + step, stop))

    def at(self, batch: slice) -> Pair:
        """Both models' activations of a batch."""
        inside = batch.start < len(self.original)
        return self.original[batch] if inside else None, self.ours[batch]

    def lacking(self, share: float) -> Floats:
        """A share of what ours lacks, where there is an original."""
        lacks = self.original - self.ours[: len(self.original)]
        return np.asarray(np.float32(share) * lacks, dtype=np.float32)

    def put(self, batch: slice, values: Pair) -> None:
        """Take the values of a batch."""
        if values[0] is not None:
            self.original[batch] = values[0]
        self.ours[batch] = values[1]

    def add(self, batch: slice, values: Pair) -> None:
        """Add values to those of a batch."""
        if values[0] is not None:
            self.original[batch] += values[0]
        self.ours[batch] += values[1]

    def room(self, channels: int) -> Self:
        """Room for other activations of the same tokens."""
        return type(self)(
            *(
                np.empty((*stream.shape[:2], channels), dtype=np.float32)
                for stream in (self.original, self.ours)
            )
        )


def through(models: tuple[Callable[[Floats], Floats], Callable[[Floats], Floats]], x: Pair) -> Pair:
    """What the original and ours make of their inputs."""
    return None if x[0] is None else models[0](x[0]), models[1](x[1])


def both(function: Callable[[Floats], Floats], x: Pair) -> Pair:
    """The same of both."""
    return through((function, function), x)


def embed(weight: LazyWeight, windows: Windows, scheme: Scheme) -> Streams:
    """Embeddings (count, length, hidden) of the original and rounded, from one pass over the table.

    Windows (count, length) of token ids come in another order: those of the original first. Raises
    :class:`~sc2onnx.errors.CheckpointError` for token ids beyond the table.
    """
    if (largest := int(windows.max())) >= weight.shape[0]:
        raise CheckpointError(
            f"tokenizer.json makes token {largest} of the calibration text, expected less than "
            f"{weight.shape[0]}, the rows of {weight.name}: it belongs to another model"
        )
    both = seen_by_both(*windows.shape)
    windows = np.concatenate([windows[both], windows[~both]])
    ours = np.empty((*windows.shape, weight.shape[1]), dtype=np.float32)
    original = np.empty((int(both.sum()), *ours.shape[1:]), dtype=np.float32)
    first = 0
    for rows in weight.chunks():
        here = (windows >= first) & (windows < first + len(rows))
        ours[here] = dequantise(quantise(rows, scheme))[windows[here] - first]
        here = here[: len(original)]
        original[here] = rows[windows[: len(original)][here] - first]
        first += len(rows)
    return Streams(original, ours)


def seen_by_both(count: int, length: int) -> npt.NDArray[np.bool_]:
    """Which of the windows go through the original as well: evenly spread, one at least."""
    chosen = np.zeros(count, dtype=np.bool_)
    chosen[np.linspace(0, count - 1, max(1, min(count, ORIGINAL_TOKENS // length))).astype(int)] = (
        True
    )
    return chosen
