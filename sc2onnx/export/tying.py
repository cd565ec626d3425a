"""The pair of embedding and head: which of them a checkpoint has, and whether they are one.

Source: ``PreTrainedModel.tie_weights`` of transformers 5.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Final

import numpy as np

from sc2onnx.export.checkpoint import Checkpoint
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.stored import Readable
from sc2onnx.export.weights import CHUNK_BYTES, EMBEDDING, HEAD

UNTIED: Final = (
    f"config.json ties the head to the embedding, but the checkpoint has a {HEAD} of its own that "
    "differs: exported with both, as transformers loads them; set tie_word_embeddings to false in "
    "config.json to say so"
)
"""What to tell whoever exports a pair that :func:`settle` found to differ."""


def settle(checkpoint: Checkpoint, config: Starcoder2Config) -> tuple[Checkpoint, Starcoder2Config]:
    """The checkpoint with the pair that its model computes with, and whether that is tied.

    Where ``config.json`` ties them, one of them is enough, whichever it is. A head of the same
    numbers, in whatever type, is the embedding; another one stands for itself, and the
    configuration that comes back is not tied. Both tensors are read if both are there.
    """
    tensors = checkpoint.tensors
    head, embedding = tensors.get(HEAD), tensors.get(EMBEDDING)
    if not config.tie_word_embeddings or head is None:
        return checkpoint, config
    others = {name: tensor for name, tensor in tensors.items() if name != HEAD}
    if embedding is None:
        others = {EMBEDDING: head.named(EMBEDDING), **others}
        return replace(checkpoint, tensors=others), config
    shape = (config.vocab_size, config.hidden_size)
    if head.shape == shape and equal(head, embedding):
        return replace(checkpoint, tensors=others), config
    return checkpoint, replace(config, tie_word_embeddings=False)


def equal(one: Readable, other: Readable) -> bool:
    """Whether two tensors hold the same numbers in one shape; each is one in float32 exactly."""
    if one.shape != other.shape:
        return False
    row = prod(one.shape[1:]) * max(one.itemsize, other.itemsize)
    rows = max(1, CHUNK_BYTES // row)
    pairs = zip(one.rows(rows), other.rows(rows), strict=True)
    return all(np.array_equal(a.astype(np.float32), b.astype(np.float32)) for a, b in pairs)
