"""What gives logits: a bundle here; torch, in ``sc2onnx.verify``, looks the same from here."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.contract import TOKENIZER_FILE
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import ContextLengthError, RequestError
from sc2onnx.evaluate.adapted import adapter_of
from sc2onnx.evaluate.measure import Floats
from sc2onnx.evaluate.text import Document, tokenize
from sc2onnx.runtime.loading import load
from sc2onnx.runtime.model import Model
from sc2onnx.runtime.ort.kernels import CacheType, Use
from sc2onnx.runtime.text.codec import Codec

_CHUNK: Final = 256
"""Positions whose logits a bundle gives at once: 50 MB at a vocabulary of 49,152."""


@dataclass(frozen=True, slots=True)
class About:
    """What a source is. ``weight_bytes``: of its weights in memory; the last
    two are counts of tokens.
    """

    name: str
    precision: str
    weight_bytes: int
    vocab_size: int
    context_length: int

    @classmethod
    def of(cls, name: str, manifest: Manifest) -> About:
        """That of a bundle."""
        return cls(
            name,
            manifest.precision,
            manifest.weight_bytes,
            manifest.model.vocab_size,
            manifest.model.context_length,
        )


class LogitSource(Protocol):
    """A model that can be measured."""

    @property
    def about(self) -> About:
        """What it is."""

    @property
    def codec(self) -> Codec | None:
        """Its tokenizer; None where it has none."""

    def logits(self, tokens: npt.NDArray[np.int64]) -> Iterator[Floats]:
        """tokens (n,), from an empty cache -> float32 logits (m, vocab) of one piece of them after
        the other, n rows in all.
        """

    def continuation(self, prompt: npt.NDArray[np.int64], limit: int) -> Generator[int, None, None]:
        """Up to ``limit`` greedy tokens after prompt (n,), past any end-of-text,
        computed while it is iterated.
        """


Opener = Callable[[], AbstractContextManager[LogitSource]]
"""Loads a source when it is its turn; leaving the context frees it, so that one
model at a time is in memory.
"""


class BundleSource:
    """A loaded bundle as a source of logits."""

    def __init__(self, model: Model, name: str, adapter: str | None = None) -> None:
        """``adapter``: the name of one that is loaded, which it computes with."""
        self._model, self._adapter = model, adapter
        self.about = About.of(f"{name} with {adapter}" if adapter else name, model.manifest)

    @property
    def codec(self) -> Codec | None:
        """See :class:`LogitSource`."""
        return self._model.codec if TOKENIZER_FILE in self._model.manifest.files else None

    def logits(self, tokens: npt.NDArray[np.int64]) -> Iterator[Floats]:
        """See :class:`LogitSource`."""
        with self._model.sequence(adapter=self._adapter) as sequence:
            for start in range(0, len(tokens), _CHUNK):
                logits = sequence.append(tokens[start : start + _CHUNK])
                assert logits is not None
                yield logits

    def continuation(self, prompt: npt.NDArray[np.int64], limit: int) -> Generator[int, None, None]:
        """See :class:`LogitSource`."""
        for token in self._model.generate_tokens(
            prompt, max_new_tokens=limit, stop_tokens=(), adapter=self._adapter
        ):
            yield token.id


@contextmanager
def _open(
    path: Path,
    name: str,
    threads: int | None,
    kernels: Use,
    cache_type: CacheType,
    adapter: Path | None,
) -> Iterator[LogitSource]:
    model = load(
        path, threads=threads, kernels=kernels, cache_type=cache_type, prefix_memory=0, packed="off"
    )
    loaded = None if adapter is None else model.load_adapter(adapter)
    yield BundleSource(model, name, loaded.name if loaded else None)


def bundle_opener(
    path: str | Path,
    threads: int | None = None,
    kernels: Use = "auto",
    cache_type: CacheType = "auto",
    name: str = "",
    adapter: Path | None = None,
) -> Opener:
    """A bundle, by default under its directory's ``name``, run with a converted ``adapter`` if one
    is given; the rest as in :func:`sc2onnx.load`.
    """
    called = name or Path(path).resolve().name
    return partial(_open, Path(path), called, threads, kernels, cache_type, adapter)


def reference_opener(
    path: str | Path,
    threads: int | None = None,
    kernels: Use = "auto",
    cache_type: CacheType = "auto",
    adapter: str | Path | None = None,
) -> Opener:
    """A bundle as the reference of :func:`sc2onnx.evaluate.evaluate`; one without a graph for the
    kernels, floats say, has no such choice. It runs with a converted ``adapter``, unless adapters
    are in its weights.
    """
    manifest = Manifest.read(Path(path))
    if not manifest.kernel_graphs:
        kernels = cache_type = "auto"
    own = adapter_of(manifest, adapter)
    return bundle_opener(path, threads, kernels, cache_type, adapter=own)


def check_alike(found: About, expected: About, length: int) -> None:
    """Raise :class:`RequestError` unless both have one vocabulary, and ``length``
    tokens fit ``found``'s context.
    """
    if found.vocab_size != expected.vocab_size:
        raise RequestError(
            f"{found.name} has a vocabulary of {found.vocab_size}, {expected.name} one of "
            f"{expected.vocab_size}: logits can only be compared over the same tokens, give models "
            "with the same tokenizer"
        )
    if length > found.context_length:
        raise ContextLengthError(
            f"windows are {length} tokens, the context of {found.name} holds "
            f"{found.context_length}: give a smaller --length"
        )


def check_same_tokens(
    name: str, found: Codec | None, expected: Codec, documents: Sequence[Document]
) -> None:
    """Raise :class:`RequestError` unless the tokenizer ``found`` in ``name`` cuts the documents as
    ``expected`` does; None passes.
    """
    if found is not None and tokenize(documents, found) != tokenize(documents, expected):
        raise RequestError(
            f"the tokenizer of {name} cuts the files into other tokens than that of the bundle: "
            "figures can only be compared over the same tokens, give models with the same tokenizer"
        )
