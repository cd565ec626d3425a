"""Windows through one model: likelihood, and the difference to what a reference said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import exp, inf, log
from typing import Final

import numpy as np
import numpy.typing as npt

from sc2onnx.evaluate.estimates import WindowScore
from sc2onnx.evaluate.measure import Difference, Floats, compare, pool, token_nll
from sc2onnx.evaluate.progress import Progress
from sc2onnx.evaluate.source import LogitSource
from sc2onnx.evaluate.store import LogitStore
from sc2onnx.evaluate.text import Window

Nats = npt.NDArray[np.float64]

_ROWS: Final = 64
"""Positions measured at once, in float64: 25 MB an array at a vocabulary of
49,152, and about six of them.
"""

_LARGEST_EXPONENT: Final = 700.0  # of e, in a double


def record(
    source: LogitSource, windows: Sequence[Window], store: LogitStore, progress: Progress
) -> None:
    """Write the source's logits of every position to the store."""
    for window in windows:
        for logits in source.logits(window.tokens):
            store.write(logits)
            progress.advance(len(logits))


def window_scores(
    source: LogitSource,
    windows: Sequence[Window],
    store: LogitStore | None,
    progress: Progress,
) -> list[WindowScore]:
    """Each window's likelihood, and its difference to the logits that :func:`record` stored, where
    there is a store.
    """
    if store:
        store.rewind()
    nlls: list[list[Nats]] = [[] for _ in windows]
    parts: list[list[Difference]] = [[] for _ in windows]
    for number, window, rows, logits in _pieces(source, windows, progress):
        following = window.following[rows]
        if store:
            parts[number].append(compare(logits, store.read(len(logits)), following))
        else:
            nlls[number].append(token_nll(logits, following))
    return [
        WindowScore(len(window), found.nll, found)
        if (found := pool(different) if different else None)
        else WindowScore(len(window), float(np.concatenate(each).mean()), None)
        for window, each, different in zip(windows, nlls, parts, strict=True)
    ]


def mean_nll(source: LogitSource, windows: Sequence[Window], progress: Progress) -> float:
    """Mean negative log-likelihood of the tokens that follow, nats."""
    found = [
        token_nll(logits, window.following[rows])
        for _, window, rows, logits in _pieces(source, windows, progress)
    ]
    return float(np.concatenate(found).mean())


def _pieces(
    source: LogitSource, windows: Sequence[Window], progress: Progress
) -> Iterator[tuple[int, Window, slice, Floats]]:
    """Each window in pieces of up to ``_ROWS`` positions: the window and its number, which of its
    positions, and their logits (n, vocab).
    """
    for number, window in enumerate(windows):
        done = 0
        for logits in source.logits(window.tokens):
            for start in range(0, len(logits), _ROWS):
                rows = logits[start : start + _ROWS]
                yield number, window, slice(done, done + len(rows)), rows
                done += len(rows)
                progress.advance(len(rows))
        assert done == len(window)


def perplexity(nll: float) -> float:
    """``e ** nll``; infinite where a double cannot hold it."""
    return exp(nll) if not nll > _LARGEST_EXPONENT else inf


def bits_per_byte(nll: float, positions: int, nbytes: int) -> float:
    """Bits that the tokens' ``nll`` (mean, nats) makes for each of the
    ``nbytes`` that they stand for.
    """
    return nll * positions / log(2) / max(nbytes, 1)
