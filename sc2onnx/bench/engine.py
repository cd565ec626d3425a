"""What is measured: a bundle here; the peers, in ``benchmarks/``, look the same from here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sc2onnx.bench.depth import placed
from sc2onnx.bench.traffic import weights_read
from sc2onnx.errors import OutputError
from sc2onnx.runtime.cache.shape import CHUNK
from sc2onnx.runtime.engine.sequence import TokenSequence
from sc2onnx.runtime.loading import load
from sc2onnx.runtime.model import Model
from sc2onnx.runtime.opening.bundle import Bundle
from sc2onnx.runtime.ort.devices import Device
from sc2onnx.runtime.ort.kernels import CacheType, Use, usable
from sc2onnx.runtime.ort.packing import Packed, make

Tokens = npt.NDArray[np.int64]


class Engine(Protocol):
    """A loaded model and one sequence of tokens."""

    @property
    def weights_read(self) -> int:
        """Bytes of weights that a decoded token reads."""

    def place(self, depth: int) -> None:
        """Make the sequence ``depth`` tokens long, by whatever is honest and quick."""

    def append(self, tokens: Tokens) -> None:
        """Append tokens (n,), compute the logits of the last."""

    def rewind(self, count: int) -> None:
        """Drop the last ``count`` tokens."""


Opener = Callable[[], AbstractContextManager[Engine]]
"""Loads an engine, for as long as the context lasts.
It is sent to a process of its own as well, so it must be picklable.
"""


class BundleEngine:
    """A bundle in our own runtime. ``real``: a depth is reached by prefill, instead of
    :func:`~sc2onnx.bench.depth.placed`.
    """

    def __init__(self, model: Model, *, real: bool = False) -> None:
        self._model, self._real = model, real
        self.sequence: TokenSequence | None = None

    @property
    def weights_read(self) -> int:
        """See :func:`sc2onnx.bench.traffic.weights_read`."""
        return weights_read(self._model.manifest)

    def place(self, depth: int) -> None:
        """See :class:`Engine`."""
        self.close()
        self.sequence = placed(self._model, 0 if self._real else depth)
        if self._real and depth:
            noise = np.random.default_rng(0).integers(
                0, self._model.manifest.model.vocab_size, depth
            )
            self.sequence.append(noise, None)

    def append(self, tokens: Tokens) -> None:
        """See :class:`Engine`."""
        assert self.sequence is not None
        self.sequence.choose(tokens)

    def rewind(self, count: int) -> None:
        """See :class:`Engine`."""
        assert self.sequence is not None
        self.sequence.rewind(count)

    def close(self) -> None:
        """Free the cache."""
        if self.sequence is not None:
            self.sequence.close()


@dataclass(frozen=True, slots=True)
class _Choices:
    """What a bundle is loaded with, as :func:`sc2onnx.load` explains it."""

    threads: int
    device: str
    kernels: Use
    cache_type: CacheType
    packed: Packed


@contextmanager
def _open(path: Path, real: bool, choices: _Choices) -> Iterator[Engine]:
    engine = BundleEngine(load(path, prefill_chunk=CHUNK, **asdict(choices)), real=real)
    try:
        yield engine
    finally:
        engine.close()


def bundle_opener(
    path: str | Path,
    threads: int,
    *,
    real: bool = False,
    device: str = "cpu",
    kernels: Use = "auto",
    cache_type: CacheType = "auto",
) -> Opener:
    """Of a bundle; see :class:`BundleEngine`.
    It is loaded as every start after the first has it, with packed weights.
    """
    choices = _Choices(
        threads, device, kernels, cache_type, _packed(path, kernels, Device.named(device))
    )
    return partial(_open, Path(path), real, choices)


def _packed(path: str | Path, kernels: Use, device: Device) -> Packed:
    """Packs the weights now, so that no engine's own memory and time are those of packing, and
    once, where they can be kept.
    """
    bundle = Bundle.open(path, "size")
    try:
        if library := usable(kernels, bundle.manifest, (device,)):
            make(bundle, library)
    except OutputError:
        return "off"
    return "auto"
