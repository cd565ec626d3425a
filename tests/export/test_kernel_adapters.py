"""Adapters in a bundle's graph for the kernels: against numpy, and alone as in any company."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sc2onnx.bundle.kernels import (
    ADAPTED,
    ADAPTER_OF_TOKEN,
    ADAPTER_SCALES,
    ADAPTER_TABLE,
    ADAPTER_WEIGHTS,
    OLDEST,
    PLACES,
    VERSION,
    SegmentEntry,
    product_number,
)
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import RequestError
from sc2onnx.runtime.ort.kernels import check_adapters
from tests.export.test_kernels_native import SLOTS, Native
from tests.kernels_reference import Stepper

Array = npt.NDArray[Any]

pytestmark = pytest.mark.kernels

GRAPH = "model.kernels.onnx"
RANKS = 16, 3, 8
"""Of the adapters: the second is in attention alone, the third in all products but o_proj."""


class Adapters:
    """Adapters of random numbers for a bundle's products, as its graph takes them."""

    def __init__(self, manifest: Manifest) -> None:
        facts, self._random = manifest.model, np.random.default_rng(5)
        keys = facts.num_kv_heads * facts.head_dim
        queries, hidden, inner = (
            facts.num_heads * facts.head_dim,
            facts.hidden_size,
            facts.intermediate_size,
        )
        self._parts: dict[str, tuple[int, Sequence[tuple[int, int]]]] = {
            ADAPTED[0]: (hidden, [(0, queries), (queries, keys), (queries + keys, keys)]),
            ADAPTED[1]: (queries, [(0, hidden)]),
            ADAPTED[2]: (hidden, [(0, inner)]),
            ADAPTED[3]: (inner, [(0, hidden)]),
        }
        shape = (len(RANKS), facts.num_layers * len(ADAPTED), 3, len(SegmentEntry._fields))
        self.table, self._weights, self._end = np.zeros(shape, np.int64), list[Array](), 0
        for adapter, rank in enumerate(RANKS):
            for layer in range(facts.num_layers):
                for name in ADAPTED:
                    if (adapter, name) not in {(1, ADAPTED[2]), (1, ADAPTED[3]), (2, ADAPTED[1])}:
                        self._add(adapter, product_number(layer, name), name, rank)
        self.weights = np.concatenate(self._weights)

    def _add(self, adapter: int, product: int, name: str, rank: int) -> None:
        width, segments = self._parts[name]
        for number, (first, outputs) in enumerate(segments):
            down = self._placed(self._low_rank(rank, width))
            up = self._random.normal(0, 0.2 * rank**-0.5, (outputs, rank)).astype(np.float16)
            tiles = np.ascontiguousarray(up.reshape(-1, 16, rank).transpose(0, 2, 1))
            entry = SegmentEntry(first, outputs, rank, down, self._placed(tiles.view(np.uint8)))
            self.table[adapter, product, number] = entry

    def _low_rank(self, rank: int, width: int) -> Array:
        """Random codes, also of the ranks that fill a tile up, and their scales."""
        tiles = -(-rank // 16)
        codes = self._random.integers(1, 256, (tiles, 16 * width), np.uint8)
        scales = self._random.uniform(0.5, 1.5, (tiles, 16)) * width**-0.5 / 64
        return np.concatenate([codes, scales.astype(np.float32).view(np.uint8)], axis=1)

    def _placed(self, matrix: Array) -> int:
        place = self._end
        self._weights.append(np.pad(matrix.ravel(), (0, -matrix.size % PLACES)))
        self._end += self._weights[-1].size
        return place

    def inputs(self, of_token: npt.ArrayLike, scales: npt.ArrayLike = ()) -> dict[str, Array]:
        return {
            ADAPTER_OF_TOKEN: np.array(of_token, np.int64),
            ADAPTER_SCALES: np.array(scales, np.float32),
            ADAPTER_TABLE: self.table,
            ADAPTER_WEIGHTS: self.weights,
        }


@pytest.fixture(scope="module")
def adapters(int4_bundle: Path) -> Adapters:
    return Adapters(Manifest.read(int4_bundle))


@pytest.fixture
def tokens(reference: Mapping[str, Array]) -> Array:
    return np.asarray(reference["tokens"][None, :60])


def native(bundle: Path, *, batch: int = 1, threads: int = 1) -> Native:
    slot_bytes = SLOTS["int8"](Manifest.read(bundle).model.head_dim)
    return Native(bundle / GRAPH, slot_bytes, 320, batch=batch, threads=threads)


def test_a_model_with_adapters_is_what_numpy_says(
    int4_bundle: Path, tokens: Array, adapters: Adapters
) -> None:
    """Tokens of one prompt with different adapters. Activations are rounded: now and then one
    falls across a boundary.
    """
    slot_bytes = SLOTS["float32"](Manifest.read(int4_bundle).model.head_dim)
    inputs = adapters.inputs([0] * 20 + [1] * 15 + [-1] * 5 + [2] * 20, [1] * 30 + [0.5] * 30)
    expected = Stepper([int4_bundle / GRAPH], slot_bytes, 320).step(tokens, 60, inputs)
    found = Native(int4_bundle / GRAPH, slot_bytes, 320).step(tokens, 60, inputs)
    without = Native(int4_bundle / GRAPH, slot_bytes, 320).step(tokens, 60)
    assert np.abs(found - expected).max() <= 0.03 * np.abs(expected).max()
    assert np.abs(found - without).max() >= 0.2 * np.abs(expected).max()


@pytest.mark.parametrize("adapter", [-1, 0, 1, 2])
def test_any_cut_gives_the_same_bits(
    int4_bundle: Path, tokens: Array, adapters: Adapters, adapter: int
) -> None:
    expected = native(int4_bundle).step(tokens, 60, adapters.inputs([adapter] * 60))
    for sizes in ([1] * 60, [9, 1, 17, 33]):
        model, found = native(int4_bundle, threads=len(sizes) % 2 + 1), list[Array]()
        for piece in np.split(tokens, np.cumsum(sizes)[:-1], axis=1):
            inputs = adapters.inputs([adapter] * piece.size)
            found.append(model.step(piece, piece.size, inputs))
        np.testing.assert_array_equal(np.concatenate(found, axis=1), expected)
    if adapter < 0:
        np.testing.assert_array_equal(native(int4_bundle).step(tokens, 60), expected)


@pytest.mark.parametrize("step", [1, 30])
@pytest.mark.parametrize("threads", [1, 2])
def test_any_company_gives_the_same_bits(
    int4_bundle: Path, tokens: Array, adapters: Adapters, threads: int, step: int
) -> None:
    """Eight rows of four kinds, two of which share an adapter and differ in its scale."""
    kinds, scales = [0, -1, 2, 1, 2, 0, 1, 0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.25]
    rows = np.stack([np.roll(tokens[0], -number)[:step] for number in range(8)])
    together = native(int4_bundle, batch=8, threads=threads).step(
        rows, step, adapters.inputs(list(np.repeat(kinds, step)), list(np.repeat(scales, step)))
    )
    for number, (kind, scale) in enumerate(zip(kinds, scales, strict=True)):
        inputs = adapters.inputs([kind] * step, [scale] * step)
        alone = native(int4_bundle).step(rows[number : number + 1], step, inputs)
        np.testing.assert_array_equal(together[number], alone[0])


def test_graphs_that_take_none(int4_bundle: Path) -> None:
    manifest = replace(Manifest.read(int4_bundle), kernels=VERSION)
    check_adapters(manifest)
    said = f"is for version {OLDEST} of them, adapters need 3: export the bundle again"
    with pytest.raises(RequestError, match=said):
        check_adapters(replace(manifest, kernels=OLDEST))
