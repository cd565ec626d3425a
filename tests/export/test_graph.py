"""The graph computes StarCoder2: against a plain float64 implementation that shares no code with
the exporter, nor with torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import erf
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sc2onnx.bundle import contract, manifest
from sc2onnx.export import export

Make = Callable[..., Path]
Array = npt.NDArray[Any]
TOLERANCE = 1e-5  # of the largest logit, as the verifier's
LENGTH = 40

VARIANTS: list[dict[str, Any]] = [
    {},
    {"tie_word_embeddings": False},
    {"use_bias": False},
    {"use_bias": False, "tie_word_embeddings": False, "sliding_window": None},
    {"sliding_window": None},
    {"sliding_window": 1},
    {"sliding_window": 39},
    {"sliding_window": 1000},
    {"hidden_act": "gelu"},
    {"hidden_act": "gelu_new"},
    {"num_key_value_heads": 1},
    {"num_key_value_heads": 4},
    {"head_dim": 6, "rope_theta": 999999.4420358813},
    {"num_hidden_layers": 1, "norm_epsilon": 0.1},
    {"num_attention_heads": 1, "num_key_value_heads": 1},
]


def reference(settings: Mapping[str, Any], tensors: Mapping[str, Array], tokens: Array) -> Array:
    """Logits (n, vocab) of every position of one sequence (n,), in float64, with
    full attention under a mask.
    """
    weight = {name: array.astype(np.float64) for name, array in tensors.items()}
    heads, kv_heads = settings["num_attention_heads"], settings["num_key_value_heads"]
    head_dim = settings.get("head_dim") or settings["hidden_size"] // heads
    positions = np.arange(len(tokens))
    distance = positions[:, None] - positions[None, :]
    visible = (distance >= 0) & (distance < (settings["sliding_window"] or np.inf))
    angles = positions[:, None] / settings["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]  # (n, 1, head_dim / 2)

    def linear(x: Array, name: str) -> Array:
        return np.asarray(x @ weight[f"{name}.weight"].T + weight.get(f"{name}.bias", 0.0))

    def norm(x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + settings["norm_epsilon"])
        return np.asarray(scaled * weight[f"{name}.weight"] + weight[f"{name}.bias"])

    def gelu(x: Array) -> Array:
        if settings["hidden_act"] == "gelu":
            return np.asarray(x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2)
        return np.asarray(x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2)

    def turned(x: Array) -> Array:  # (n, heads, head_dim)
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    x = weight["model.embed_tokens.weight"][tokens]
    for layer in range(settings["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        normed = norm(x, f"{name}.input_layernorm")
        q, k, v = (
            linear(normed, f"{name}.self_attn.{part}_proj").reshape(len(tokens), -1, head_dim)
            for part in "qkv"
        )
        q, k = turned(q), turned(k)
        mixed = np.empty_like(q)
        for head in range(heads):
            shared = head // (heads // kv_heads)
            scores = np.where(visible, q[:, head] @ k[:, shared].T / np.sqrt(head_dim), -np.inf)
            odds = np.exp(scores - scores.max(-1, keepdims=True))
            mixed[:, head] = odds / odds.sum(-1, keepdims=True) @ v[:, shared]
        x = x + linear(mixed.reshape(len(tokens), -1), f"{name}.self_attn.o_proj")
        x = x + linear(
            gelu(linear(norm(x, f"{name}.post_attention_layernorm"), f"{name}.mlp.c_fc")),
            f"{name}.mlp.c_proj",
        )
    head_name = "model.embed_tokens" if settings["tie_word_embeddings"] else "lm_head"
    return np.asarray(norm(x, "model.norm") @ weight[f"{head_name}.weight"].T)


class Stepper:
    """The exported graph and its cache. Slots that nothing was written to hold
    noise, as after a rewind.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, capacity: int, batch: int = 1
    ) -> None:
        random = np.random.default_rng(1)
        self.session = session
        self.past = np.zeros(batch, np.int64)
        sizes = {"batch": batch, "capacity": capacity}
        self.caches: dict[str, Array] = {
            value.name: (
                9 * random.standard_normal([sizes.get(size, size) for size in value.shape])
            ).astype(np.float32)
            for value in session.get_inputs()
            if value.name.startswith("past_key_values.")
        }

    def step(self, tokens: Array, num_logits: int | None = None) -> Array:
        """tokens: (batch, step) -> logits (batch, num_logits, vocab); None leaves the input out."""
        feeds: dict[str, Array] = {
            contract.INPUT_IDS: tokens,
            contract.PAST_LENGTHS: self.past,
            **self.caches,
        }
        if num_logits is not None:
            feeds[contract.NUM_LOGITS] = np.array([num_logits], np.int64)
        outputs = dict(
            zip(
                (value.name for value in self.session.get_outputs()),
                self.session.run(None, feeds),
                strict=True,
            )
        )
        self.past = self.past + tokens.shape[1]
        self.caches = {
            name: outputs[name.replace("past_key_values", "present")] for name in self.caches
        }
        return np.asarray(outputs[contract.LOGITS])

    def all(self, tokens: Array, sizes: Sequence[int]) -> Array:
        """Logits (batch, n, vocab) of tokens (batch, n) in steps of these sizes."""
        assert sum(sizes) == tokens.shape[1]
        pieces = np.split(tokens, np.cumsum(sizes)[:-1], axis=1)
        return np.concatenate([self.step(piece, piece.shape[1]) for piece in pieces], axis=1)


def assert_close(ours: Array, expected: Array) -> None:
    assert ours.shape == expected.shape
    assert ours.dtype == np.float32
    assert np.abs(ours - expected).max() <= TOLERANCE * np.abs(expected).max()


def some_tokens(batch: int = 1, length: int = LENGTH) -> Array:
    return np.random.default_rng(7).integers(0, 32, (batch, length))


def load(bundle: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        bundle / "model.onnx", options, providers=["CPUExecutionProvider"]
    )


@pytest.fixture(scope="module")
def session(tiny_bundle: Path) -> onnxruntime.InferenceSession:
    """Of the tiny checkpoint with the settings of the ``settings`` fixture: window 5."""
    return load(tiny_bundle)


@pytest.fixture
def exported(make_checkpoint: Make, tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    def make(changes: dict[str, Any]) -> Path:
        export(make_checkpoint(changes), tmp_path / "bundle")
        return tmp_path / "bundle"

    return make


@pytest.fixture
def expected(
    random_tensors: Callable[..., dict[str, Array]], settings: dict[str, Any]
) -> Callable[..., Array]:
    """``expected(tokens, changes)``: float64 logits of one sequence."""

    def compute(tokens: Array, changes: Mapping[str, Any] | None = None) -> Array:
        changed = {**settings, **(changes or {})}
        return reference(changed, random_tensors(changed), tokens)

    return compute


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_logits_are_those_of_the_reference(
    exported: Callable[[dict[str, Any]], Path],
    expected: Callable[..., Array],
    changes: dict[str, Any],
) -> None:
    session, tokens = load(exported(changes)), some_tokens()
    window = {"sliding_window": 5, **changes}["sliding_window"] or LENGTH
    target = expected(tokens[0], changes)[None]
    for sizes in ([LENGTH], [1] * LENGTH, [13, 1, 7, 1, 1, 1, 12, 4]):
        stepper = Stepper(session, capacity=min(window + max(sizes) - 1, LENGTH))
        assert_close(stepper.all(tokens, sizes), target)


@pytest.mark.parametrize(
    "changes",
    [
        {"sliding_window": 4},
        {"sliding_window": 6},
        {"sliding_window": None},
        {"hidden_act": "gelu"},
        {"rope_theta": 11000.0},
        {"norm_epsilon": 1e-3},
    ],
    ids=str,
)
def test_the_reference_tells_small_differences(
    expected: Callable[..., Array], changes: dict[str, Any]
) -> None:
    """What the comparison above rests on: none of these would pass for another."""
    tokens = some_tokens()[0]
    right, wrong = expected(tokens), expected(tokens, changes)
    assert np.abs(wrong - right).max() > 5 * TOLERANCE * np.abs(right).max()


@hypothesis.settings(deadline=None)
@given(data=st.data())
def test_the_cut_into_steps_and_the_room_in_the_ring_do_not_matter(
    session: onnxruntime.InferenceSession,
    random_tensors: Callable[..., dict[str, Array]],
    tiny_settings: Mapping[str, Any],
    data: st.DataObject,
) -> None:
    sizes: list[int] = []
    while (left := LENGTH - sum(sizes)) > 0:
        sizes.append(min(left, data.draw(st.integers(1, 12), label="step")))
    capacity = (
        tiny_settings["sliding_window"]
        + max(sizes)
        - 1
        + data.draw(st.integers(0, 5), label="spare slots")
    )
    tokens = some_tokens()
    target = reference(tiny_settings, random_tensors(tiny_settings), tokens[0])
    assert_close(Stepper(session, capacity).all(tokens, sizes)[0], target)


@pytest.mark.parametrize("capacity", [5 + 4 - 1, 5 + 4, 17])
def test_rows_of_a_batch_may_be_of_different_lengths(
    session: onnxruntime.InferenceSession, expected: Callable[..., Array], capacity: int
) -> None:
    tokens, pasts = some_tokens(batch=4), [0, 3, 11, 22]
    rows = [Stepper(session, capacity) for _ in pasts]
    for row, past, ids in zip(rows, pasts, tokens, strict=True):
        if past:
            row.all(ids[None, :past], [1] * past)
    together = Stepper(session, capacity, batch=4)
    together.past = np.array(pasts)
    together.caches = {
        name: np.concatenate([row.caches[name] for row in rows]) for name in together.caches
    }
    following = np.stack([ids[past : past + 18] for past, ids in zip(pasts, tokens, strict=True)])
    logits = together.all(following, [4, 1, 3, 1, 1, 4, 4])
    for row_logits, past, ids in zip(logits, pasts, tokens, strict=True):
        assert_close(row_logits, expected(ids[: past + 18])[past:])


def test_only_the_logits_asked_for(
    session: onnxruntime.InferenceSession, expected: Callable[..., Array]
) -> None:
    tokens = some_tokens(batch=2, length=30)
    target = np.stack([expected(row) for row in tokens])
    stepper = Stepper(session, capacity=20, batch=2)
    assert stepper.step(tokens[:, :10], num_logits=0).shape == (2, 0, 32)
    assert_close(stepper.step(tokens[:, 10:16], num_logits=6), target[:, 10:16])
    assert_close(stepper.step(tokens[:, 16:20], num_logits=3), target[:, 17:20])
    assert_close(stepper.step(tokens[:, 20:26], num_logits=1), target[:, 25:26])
    assert_close(stepper.step(tokens[:, 26:30], num_logits=None), target[:, 29:30])


def test_a_step_writes_its_own_slots_and_no_others(session: onnxruntime.InferenceSession) -> None:
    stepper = Stepper(session, capacity=9)
    stepper.past = np.array([7])
    before = stepper.caches
    stepper.step(some_tokens(length=4))
    for name, cache in stepper.caches.items():
        changed = (cache != before[name]).any(axis=(0, 1, 3 if name.endswith("key") else 2))
        # positions 7 to 10 in a ring of 9
        np.testing.assert_array_equal(np.flatnonzero(changed), [0, 1, 7, 8])


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_the_checker_of_onnx_accepts_the_graph(
    exported: Callable[[dict[str, Any]], Path], changes: dict[str, Any]
) -> None:
    onnx.checker.check_model(exported(changes) / "model.onnx", full_check=True)


@pytest.fixture(scope="module")
def graph_model(tiny_bundle: Path) -> onnx.ModelProto:
    return onnx.load(tiny_bundle / "model.onnx", load_external_data=False)


def described(values: Any) -> dict[str, tuple[int, list[int | str]]]:
    """Element type and dimensions of graph inputs or outputs, in their order."""
    found: dict[str, tuple[int, list[int | str]]] = {}
    for value in values:
        tensor = value.type.tensor_type
        found[value.name] = (
            tensor.elem_type,
            [dim.dim_param or dim.dim_value for dim in tensor.shape.dim],
        )
    return found


def test_inputs_and_outputs_are_those_of_the_contract(graph_model: onnx.ModelProto) -> None:
    int64, float32 = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    shapes = {"key": ["batch", 2, "capacity", 4], "value": ["batch", 2, 4, "capacity"]}
    kinds = [
        (layer, kind, (float32, shape)) for layer in range(2) for kind, shape in shapes.items()
    ]
    assert described(graph_model.graph.input) == {
        contract.INPUT_IDS: (int64, ["batch", "step"]),
        contract.PAST_LENGTHS: (int64, ["batch"]),
        contract.NUM_LOGITS: (int64, [1]),
    } | {contract.past_name(layer, kind): cache for layer, kind, cache in kinds}
    outputs = described(graph_model.graph.output)
    caches = {contract.present_name(layer, kind): cache for layer, kind, cache in kinds}
    assert outputs == {contract.LOGITS: (float32, ["batch", "num_logits", 32])} | caches
    assert next(iter(outputs)) == contract.LOGITS


def test_only_the_number_of_logits_is_optional_and_it_is_one_by_default(
    graph_model: onnx.ModelProto,
) -> None:
    initializers = {tensor.name: tensor for tensor in graph_model.graph.initializer}
    optional = [value.name for value in graph_model.graph.input if value.name in initializers]
    assert optional == [contract.NUM_LOGITS]
    np.testing.assert_array_equal(
        onnx.numpy_helper.to_array(initializers[contract.NUM_LOGITS]),
        np.array([1], np.int64),
        strict=True,
    )


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_only_standard_operators_are_used(
    exported: Callable[[dict[str, Any]], Path], changes: dict[str, Any]
) -> None:
    model = onnx.load(exported(changes) / "model.onnx", load_external_data=False)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 24)]
    assert not model.functions
    for node in model.graph.node:
        schema = onnx.defs.get_schema(node.op_type, 24, node.domain)
        assert not schema.deprecated


def test_every_weight_is_stored_once_and_used(
    graph_model: onnx.ModelProto, tiny_bundle: Path
) -> None:
    outside = [tensor for tensor in graph_model.graph.initializer if tensor.external_data]
    lengths = [
        int(entry.value)
        for tensor in outside
        for entry in tensor.external_data
        if entry.key == "length"
    ]
    assert sum(lengths) == manifest.Manifest.read(tiny_bundle).weight_bytes
    used = {name for node in graph_model.graph.node for name in node.input}
    assert {tensor.name for tensor in graph_model.graph.initializer} <= used
    # constants, not weights
    assert max(len(tensor.raw_data) for tensor in graph_model.graph.initializer) <= 64
