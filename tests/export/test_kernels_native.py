"""The operators of sc2onnx-kernels, in a bundle's graph for them, against numpy and themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest

from sc2onnx.bundle.manifest import Manifest
from tests.kernels_reference import Stepper

kernels = pytest.importorskip("sc2onnx_kernels")

Array = npt.NDArray[Any]

SLOTS: dict[str, Callable[[int], int]] = {
    "float32": lambda head_dim: 4 * head_dim,
    "int8": lambda head_dim: head_dim + 4,
}
"""Bytes of a slot by what it holds."""


class Native:
    """A graph for the kernels and its cache, which holds zeros at first."""

    def __init__(
        self,
        graph: Path,
        slot_bytes: int,
        capacity: int,
        *,
        batch: int = 1,
        threads: int = 1,
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.register_custom_ops_library(str(kernels.library()))
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.past = np.zeros(batch, dtype=np.int64)
        self._caches = {
            value.name: np.zeros((batch, value.shape[1], capacity, slot_bytes), dtype=np.uint8)
            for value in self._session.get_inputs()
            if value.name.startswith("past_key_values.")
        }

    def step(
        self, tokens: Array, num_logits: int, adapters: Mapping[str, Array] | None = None
    ) -> Array:
        """tokens (batch, step) -> logits (batch, num_logits, vocab). ``adapters``: their inputs,
        left out by default.
        """
        feeds = {
            **(adapters or {}),
            "input_ids": tokens,
            "past_lengths": self.past,
            "num_logits": np.array([num_logits]),
        }
        names = [value.name for value in self._session.get_outputs()]
        found = dict(zip(names, self._session.run(None, {**feeds, **self._caches}), strict=True))
        for name in self._caches:
            self._caches[name] = found[name.replace("past_key_values", "present")]
        self.past = self.past + tokens.shape[1]
        return np.asarray(found["logits"])

    def all(self, tokens: Array, sizes: Sequence[int]) -> Array:
        """Logits (batch, n, vocab) of tokens (batch, n), in steps of these sizes."""
        pieces = np.split(tokens, np.cumsum(sizes)[:-1], axis=1)
        return np.concatenate([self.step(piece, piece.shape[1]) for piece in pieces], axis=1)


@pytest.fixture(params=["int8", "int4"])
def quantised(request: pytest.FixtureRequest, int8_bundle: Path, int4_bundle: Path) -> Path:
    return {"int8": int8_bundle, "int4": int4_bundle}[request.param]


@pytest.mark.parametrize("slots", SLOTS)
def test_a_model_is_what_numpy_says(
    quantised: Path,
    reference: Mapping[str, Array],
    slots: str,
) -> None:
    """Past the window. Activations are rounded: now and then one falls across a boundary."""
    head_dim = Manifest.read(quantised).model.head_dim
    graph, slot_bytes = quantised / "model.kernels.onnx", SLOTS[slots](head_dim)
    tokens, sizes = reference["tokens"][None, :340], [1, 37, 200, 62, 40]
    expected = Stepper([graph], slot_bytes, 320).all(tokens, sizes)
    found = Native(graph, slot_bytes, 320).all(tokens, sizes)
    assert np.abs(found - expected).max() <= 0.03 * np.abs(expected).max()
    assert (found.argmax(-1) == expected.argmax(-1)).mean() >= 0.99


@pytest.mark.parametrize("slots", SLOTS)
def test_any_cut_and_any_company_gives_the_same_bits(
    quantised: Path,
    reference: Mapping[str, Array],
    slots: str,
) -> None:
    head_dim = Manifest.read(quantised).model.head_dim
    graph, slot_bytes = quantised / "model.kernels.onnx", SLOTS[slots](head_dim)
    tokens = reference["tokens"][None, :300]
    expected = Native(graph, slot_bytes, 560).all(tokens, [300])
    for sizes in ([1] * 300, [150, 150], [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 62]):
        np.testing.assert_array_equal(Native(graph, slot_bytes, 560).all(tokens, sizes), expected)
    threaded = Native(graph, slot_bytes, 560, threads=2).all(tokens, [16, 1, 283])
    np.testing.assert_array_equal(threaded, expected)
    rows = np.repeat(tokens, 3, axis=0)
    together = Native(graph, slot_bytes, 560, batch=3).all(rows, [100, 1, 199])
    np.testing.assert_array_equal(together, np.repeat(expected, 3, axis=0))
