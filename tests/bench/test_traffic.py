from __future__ import annotations

from dataclasses import replace

import pytest

import sc2onnx
from sc2onnx.bench.traffic import weights_read
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.quantization import Quantization
from sc2onnx.bundle.schemes import Scheme
from sc2onnx.errors import BundleError

EMBEDDING = "model.embed_tokens"


@pytest.fixture
def untied(model: sc2onnx.Model) -> Manifest:
    """The mini's manifest as if its head were its own: 4096 tokens of 256 channels."""
    return replace(
        model.manifest,
        model=replace(model.manifest.model, tied_embeddings=False),
        weight_bytes=100_000_000,
    )


def quantised(manifest: Manifest, scheme: Scheme) -> Manifest:
    return replace(
        manifest,
        precision="int",
        quantization=Quantization("r", {EMBEDDING: scheme}, 4.25, "nearest", None),
    )


def test_a_tied_head_reads_the_embedding_once(model: sc2onnx.Model) -> None:
    assert weights_read(model.manifest) == model.manifest.weight_bytes
    assert weights_read(quantised(model.manifest, Scheme(8, 128))) == model.manifest.weight_bytes


@pytest.mark.parametrize(("precision", "width"), [("fp32", 4), ("fp16", 2), ("bf16", 2)])
def test_an_embedding_of_its_own_is_not_read(untied: Manifest, precision: str, width: int) -> None:
    assert weights_read(replace(untied, precision=precision)) == 100_000_000 - 4096 * 256 * width


@pytest.mark.parametrize(
    ("scheme", "row"), [(Scheme(8, 128), 256 + 2 * 4), (Scheme(4, 32), 128 + 8 * 4)]
)
def test_nor_is_a_quantised_one_with_its_scales(untied: Manifest, scheme: Scheme, row: int) -> None:
    assert weights_read(quantised(untied, scheme)) == 100_000_000 - 4096 * row


def test_what_is_not_known_is_refused(untied: Manifest) -> None:
    with pytest.raises(BundleError, match="precision is 'fp8'"):
        weights_read(replace(untied, precision="fp8"))
