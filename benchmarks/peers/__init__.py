"""What is measured against each other by ``benchmarks/quality.py`` and ``speed.py``: one module per
engine, all with the same face.

An engine's package is imported when one of its variants is opened, so that a missing
one costs its own rows only.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sc2onnx.bench import Opener

Floats = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64]


class Peer(Protocol):
    """A loaded model."""

    @property
    def bytes(self) -> int:
        """Weights as stored: matrices, scales, biases and norms, a tied matrix
        once where it is stored once.
        """

    def logits(self, tokens: Tokens) -> Floats:
        """tokens (n,) from an empty context -> logits (n, vocab)."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A row of the table that is yet to be measured.
    ``open`` loads it, for as long as the context lasts, and may raise anything.
    """

    name: str
    open: Callable[[], AbstractContextManager[Peer]]


@dataclass(frozen=True, slots=True)
class Contender:
    """An engine whose speed is yet to be measured.
    ``prepare`` makes its files, once; both run in processes of their own, too.
    """

    name: str
    prepare: Callable[[], None]
    open: Opener


@dataclass(frozen=True, slots=True)
class Setting:
    """What every engine is given: a checkpoint directory, a directory for large files, the longest
    window or context, threads.
    """

    checkpoint: Path
    scratch: Path
    length: int
    threads: int
