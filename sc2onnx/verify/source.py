"""Torch as the reference of ``sc2onnx evaluate``."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers.utils.hub import cached_file

from sc2onnx.bundle.contract import TOKENIZER_FILE
from sc2onnx.bundle.provenance import Provenance
from sc2onnx.errors import CheckpointError
from sc2onnx.evaluate.measure import Floats
from sc2onnx.evaluate.source import About, Opener
from sc2onnx.runtime.text.codec import Codec
from sc2onnx.verify.merged import Merged
from sc2onnx.verify.reference import Reference


class TorchSource:
    """A :class:`Reference` as a :class:`~sc2onnx.evaluate.source.LogitSource`.
    ``codec``: None if the checkpoint has no tokenizer.
    """

    def __init__(self, reference: Reference, about: About, codec: Codec | None) -> None:
        self._reference, self.about, self.codec = reference, about, codec

    def logits(self, tokens: npt.NDArray[np.int64]) -> Iterator[Floats]:
        """tokens (n,) -> logits (n, vocab), all at once."""
        yield self._reference.logits(tokens[None])[0]

    def continuation(self, prompt: npt.NDArray[np.int64], limit: int) -> Generator[int, None, None]:
        """Greedy tokens after prompt (n,)."""
        yield from islice(self._reference.continuation(prompt), limit)


def torch_opener(
    checkpoint: str | Path,
    origin: Provenance,
    threads: int | None = None,
    adapters: Merged | None = None,
) -> Opener:
    """A checkpoint (directory or hub id) in float32; of the revision that a bundle came from, where
    it is the bundle's own source. ``adapters``: merged into it by peft.
    """
    revision = origin.revision if str(checkpoint) == origin.source else None
    return partial(_open, checkpoint, revision, threads, adapters)


@contextmanager
def _open(
    checkpoint: str | Path, revision: str | None, threads: int | None, adapters: Merged | None
) -> Iterator[TorchSource]:
    if threads is not None:
        torch.set_num_threads(threads)
    with Reference(checkpoint, revision) as reference:
        name = _name(checkpoint)
        if adapters:
            reference.merge(adapters)
            name += f" with {', '.join(map(_name, adapters.paths))}"
        # adapters that were merged at export may have brought tokens
        own = adapters is not None and bool(adapters.records)
        codec = None if own else _codec(checkpoint, revision)
        about = About(
            name,
            "torch fp32",
            reference.weight_bytes,
            reference.vocab_size,
            reference.context_length,
        )
        yield TorchSource(reference, about, codec)


def _name(source: str | Path) -> str:
    """Of a directory, or the hub id."""
    return Path(source).resolve().name if Path(source).exists() else str(source)


def _codec(checkpoint: str | Path, revision: str | None) -> Codec | None:
    try:
        path = cached_file(
            checkpoint,
            TOKENIZER_FILE,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
        )
    except Exception as error:  # huggingface_hub has its own
        raise CheckpointError(
            f"the tokenizer of {checkpoint} could not be had: {str(error).strip().splitlines()[0]}"
        ) from error
    return None if path is None else Codec(Path(path))
