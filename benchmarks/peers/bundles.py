"""Our own bundles, as given or exported for the occasion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

import sc2onnx
from peers import Floats, Peer, Setting, Tokens, Variant
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.export import export
from sc2onnx.export.checkpoint import Checkpoint
from sc2onnx.export.config import Starcoder2Config


def variants(setting: Setting, precisions: list[str], directories: list[Path]) -> list[Variant]:
    """One for each precision to export, one for each bundle that exists."""
    exported = [
        Variant(f"sc2onnx {precision}", partial(_export, setting, precision))
        for precision in precisions
    ]
    given = [
        Variant(f"sc2onnx bundle {path.resolve().name}", partial(_open, setting, path))
        for path in directories
    ]
    return exported + given


@contextmanager
def _export(setting: Setting, precision: str) -> Iterator[Peer]:
    bundle = setting.scratch / f"bundle-{precision}"
    export(setting.checkpoint, bundle, precision=precision)
    with _open(setting, bundle) as model:
        yield model


@contextmanager
def _open(setting: Setting, bundle: Path) -> Iterator[Peer]:
    model = sc2onnx.load(bundle, threads=setting.threads)
    check_same_model(model.manifest, setting.checkpoint)
    yield _Model(model)


def check_same_model(manifest: Manifest, checkpoint: Path) -> None:
    """Raise ValueError for a bundle of another shape than the checkpoint's."""
    config = Starcoder2Config.from_dict(Checkpoint.open(checkpoint).config)
    expected = config.facts(manifest.model.parameters, ())
    if replace(manifest.model, eos_token_ids=()) != expected:
        raise ValueError(
            "the bundle was not made from a checkpoint like this one: give the checkpoint "
            "that it was exported from"
        )


class _Model:
    """A bundle in ONNX Runtime."""

    def __init__(self, model: sc2onnx.Model) -> None:
        self._model = model

    @property
    def bytes(self) -> int:
        """Bytes of the weights, rotary tables included."""
        return self._model.manifest.weight_bytes

    def logits(self, tokens: Tokens) -> Floats:
        """Of one window, in a sequence of its own."""
        with self._model.sequence() as sequence:
            result = sequence.append(tokens, logits="all")
        return np.asarray(result, dtype=np.float32)
