"""The operators of sc2onnx-kernels, in a bundle's graph for them, against numpy and themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest

from sc2onnx.bundle.manifest import Manifest
from tests.kernels_reference import Stepper, unpacked

kernels = pytest.importorskip("sc2onnx_kernels")

Array = npt.NDArray[Any]

SLOTS: dict[str, Callable[[int], int]] = {
    "float32": lambda head_dim: 4 * head_dim,
    "int8": lambda head_dim: head_dim + 4,
}
"""Bytes of a slot by what it holds."""


def session_of(graph: Path | bytes, threads: int) -> ort.InferenceSession:
    """A session of a graph, in a file or in memory, with the kernels."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(kernels.library()))
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


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
        self._session = session_of(graph, threads)
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


WEIGHTS: dict[str, Array] = {
    "codes": np.random.default_rng(0).integers(0, 256, (40, 2, 32), dtype=np.uint8),
    "scales": np.random.default_rng(1).uniform(0.005, 0.01, (40, 2)).astype(np.float32),
}
"""Of one product of 8 bits in blocks of 32."""


def linear(threads: int = 1, more: Sequence[str] = (), **attributes: Any) -> ort.InferenceSession:
    """The product of x (tokens, 64) with :data:`WEIGHTS`. ``more``: other inputs that it takes."""
    places = ["x", "codes", "scales", "bias", "norm_weight", "norm_bias", "residual"]
    inputs = [name if name in ("x", *WEIGHTS, *more) else "" for name in places]
    sizes: dict[str, Any] = {"N": 40, "K": 64, "bits": 8, "block_size": 32}
    node = onnx.helper.make_node(
        "BlockwiseLinear", inputs, ["y"], domain="sc2onnx", **sizes, **attributes
    )
    ports = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["tokens", size])
        for name, size in (("x", 64), ("residual", 40), ("y", 40))
    ]
    graph = onnx.helper.make_graph(
        [node],
        "graph",
        [port for port in ports[:2] if port.name in ("x", *more)],
        ports[2:],
        [onnx.numpy_helper.from_array(array, name) for name, array in WEIGHTS.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("sc2onnx", 4)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return session_of(model.SerializeToString(), threads)


def test_activations_of_16_bits_are_nearly_what_they_were() -> None:
    x = np.random.default_rng(2).normal(size=(23, 64)).astype(np.float32)
    sessions = linear(threads=2), linear(threads=2, activation_bits=16)
    (coarse,), (fine,) = (session.run(None, {"x": x}) for session in sessions)
    exact = x @ unpacked(WEIGHTS["codes"], WEIGHTS["scales"], 8).T
    size = np.abs(exact).max()
    assert np.abs(fine - exact).max() < 5e-5 * size
    assert np.abs(coarse - exact).max() > 1e-3 * size
    alone = linear(activation_bits=16)
    for row in range(len(x)):  # to the bit, whatever rows are beside it
        np.testing.assert_array_equal(alone.run(None, {"x": x[row : row + 1]})[0][0], fine[row])


@pytest.mark.parametrize(
    ("attributes", "more", "found"),
    [
        ({"activation_bits": 4}, (), 4),
        ({"activation_bits": 16, "gelu": 1}, (), 16),
        ({"activation_bits": 16}, ("residual",), 16),
    ],
)
def test_what_16_bits_do_not_go_with_is_refused(
    attributes: Mapping[str, Any], more: Sequence[str], found: int
) -> None:
    said = f"activation_bits = {found}, expected 8, or 16 without gelu, residual and adapters"
    with pytest.raises(Exception, match=said):
        linear(more=more, **attributes)
