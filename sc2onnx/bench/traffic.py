"""The bytes of weights that one decoded token reads."""

from __future__ import annotations

from typing import Final

from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import BundleError

_EMBEDDING: Final = "model.embed_tokens"
_WIDTHS: Final = {"fp32": 4, "fp16": 2, "bf16": 2}


def weights_read(manifest: Manifest) -> int:
    """All of a bundle's weights, without the embedding unless the head is tied to
    it and so reads it, once.

    Of the embedding itself a token reads one row, and of the rotary tables as well: 0.5% of the
    3B model in int4, which is counted. Raises :class:`BundleError` for weights of a kind that
    this version does not know.
    """
    if manifest.model.tied_embeddings:
        return manifest.weight_bytes
    return manifest.weight_bytes - _embedding_bytes(manifest)


def _embedding_bytes(manifest: Manifest) -> int:
    rows, columns = manifest.model.vocab_size, manifest.model.hidden_size
    if manifest.quantization is None or _EMBEDDING not in manifest.quantization.schemes:
        if manifest.precision not in _WIDTHS:
            raise BundleError(
                f"the embedding's precision is {manifest.precision!r}, expected one of "
                f"{', '.join(_WIDTHS)}: upgrade sc2onnx"
            )
        return rows * columns * _WIDTHS[manifest.precision]
    halves = manifest.quantization.scales is not None or manifest.made_for.floating == "float16"
    scale = 2 if halves else 4  # bytes
    return manifest.quantization.schemes[_EMBEDDING].nbytes(rows, columns, scale)
