"""A checkpoint with adapters -> the checkpoint that peft computes with, its tensors still lazy.

Adapters are merged in turn, as peft does. Where the head is the embedding, a change of one of them
is a change of both, unless peft makes that one a module of its own: then they are two from there
on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from sc2onnx.errors import RequestError, TensorError
from sc2onnx.export.adapters.change import Change, MergedTensor
from sc2onnx.export.adapters.opened import Adapter
from sc2onnx.export.adapters.text import tokenizer_directory
from sc2onnx.export.checkpoint import Checkpoint
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.shown import name_of
from sc2onnx.export.stored import Readable
from sc2onnx.export.tying import equal, settle
from sc2onnx.export.weights import EMBEDDING, HEAD

APART: Final = (
    "config.json ties the head to the embedding, and an adapter changes one of them alone: "
    "exported with both, as peft computes"
)
"""What to tell whoever merges an adapter that parts the pair."""

_OTHER: Final = {EMBEDDING: HEAD, HEAD: EMBEDDING}


def merge(
    checkpoint: Checkpoint, config: Starcoder2Config, adapters: Sequence[Adapter]
) -> tuple[Checkpoint, Starcoder2Config]:
    """The checkpoint with adapters merged, and what describes it then.

    ``config``: as :func:`~sc2onnx.export.tying.settle` left it. Adapters may bring rows for new
    tokens, and part head and embedding. Raises :class:`TensorError` where the pair does not have
    the same tokens, and :class:`RequestError` for adapters that exclude each other.
    """
    if not adapters:
        return checkpoint, config
    tensors, tied = dict(checkpoint.tensors), config.tie_word_embeddings
    if tied:
        tensors[HEAD] = tensors[EMBEDDING].named(HEAD)
    tensors |= _replaced(adapters, tied)
    changes = _changes(adapters, tied)
    for name, steps in changes.items():
        tensors[name] = MergedTensor(name, tensors[name], steps)
    if tied and tensors[HEAD].named(EMBEDDING) == tensors[EMBEDDING]:
        del tensors[HEAD]
    config = replace(config, vocab_size=_vocabulary(tensors))
    stamps = {path: found for adapter in adapters for path, found in adapter.stamps.items()}
    merged = replace(
        checkpoint,
        tensors=tensors,
        stamps={**checkpoint.stamps, **stamps},
        merged=tuple(adapter.record for adapter in adapters),
        tokenizer_directory=tokenizer_directory([adapter.directory for adapter in adapters]),
    )
    merged, config = settle(merged, config)
    return replace(merged, config=_described(merged.config, config)), config


def _replaced(adapters: Sequence[Adapter], tied: bool) -> dict[str, Readable]:
    """Tensors that adapters put in the place of the model's, under the names of those."""
    found: dict[str, Readable] = {}
    for adapter in adapters:
        for name, tensor in adapter.replaced.items():
            new = tensor.named(name)
            if name in found and not equal(found[name], new):
                raise RequestError(
                    f"adapters {_names(adapters)} each save {name_of(name)} whole, and not the "
                    "same, so they exclude each other: merge one of them"
                )
            found[name] = new
            other = _OTHER.get(name)
            if tied and other and name not in adapter.apart and other not in adapter.replaced:
                found.setdefault(other, new.named(other))
    return found


def _changes(adapters: Sequence[Adapter], tied: bool) -> dict[str, tuple[Change, ...]]:
    """Tensor -> what adapters do to it, in their order."""
    found: dict[str, tuple[Change, ...]] = {}
    for adapter in adapters:
        changes = dict(adapter.changes)
        if tied and EMBEDDING in changes and not adapter.apart:
            changes[HEAD] = changes[EMBEDDING]
        for name, change in changes.items():
            found[name] = (*found.get(name, ()), change)
    return found


def _vocabulary(tensors: Mapping[str, Readable]) -> int:
    """Rows of the embedding. Raises :class:`TensorError` where the head has not as many."""
    rows = tensors[EMBEDDING].shape[0]
    if HEAD in tensors and tensors[HEAD].shape[0] != rows:
        raise TensorError(
            f"with the adapter, {EMBEDDING} has {rows} rows and {HEAD} "
            f"{tensors[HEAD].shape[0]}, expected one for each token in both: save the adapter with "
            "both (modules_to_save, or save_embedding_layers=True)"
        )
    return rows


def _described(raw: Mapping[str, object], config: Starcoder2Config) -> dict[str, object]:
    """``config.json`` of the merged model: it has what the adapters changed, as it is otherwise."""
    changed: dict[str, object] = {}
    if raw.get("vocab_size") != config.vocab_size:
        changed["vocab_size"] = config.vocab_size
    if raw.get("tie_word_embeddings", True) != config.tie_word_embeddings:
        changed["tie_word_embeddings"] = config.tie_word_embeddings
    return {**raw, **changed}


def _names(adapters: Sequence[Adapter]) -> str:
    return " and ".join(name_of(adapter.record.source) for adapter in adapters)
