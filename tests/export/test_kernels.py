"""The graph for the kernels: where there is one, what is in it, and that it computes StarCoder2."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from sc2onnx.bundle.kernels import ADAPTER_INPUTS, CACHE_ROWS, STEP_LENGTHS, VERSION
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.schemes import Scheme
from sc2onnx.export import Calibration, export
from sc2onnx.export.quantize.recipe import Override, Recipe
from sc2onnx.runtime.opening.bundle import Bundle
from tests.export.quantize.definition import matrices
from tests.export.test_graph import TOLERANCE, load, reference
from tests.export.test_graph import Stepper as Usual
from tests.kernels_reference import Stepper

Make = Callable[..., Path]
Array = npt.NDArray[Any]

pytestmark = pytest.mark.filterwarnings("ignore:.*tokenizer.json:UserWarning")

SIZES = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
"""Of the tiny checkpoint, that blocks of 16 and 32 and the kernels divide."""

INT4 = Recipe("4 bits", Scheme(4, 16), Scheme(8, 32))
LENGTH = 40
NEAREST = Calibration(False)


@pytest.fixture
def exported(make_checkpoint: Make, tmp_path: Path) -> Callable[..., Path]:
    """``exported(changes, recipe, **options)``: a bundle of the tiny checkpoint."""

    def make(
        changes: Mapping[str, Any] | None = None,
        recipe: Recipe | str = "int8",
        **options: Any,
    ) -> Path:
        precision = str(tmp_path / "recipe.json") if isinstance(recipe, Recipe) else recipe
        if isinstance(recipe, Recipe):
            Path(precision).write_text(recipe.to_json())
        checkpoint = make_checkpoint({**SIZES, "intermediate_size": 128, **(changes or {})})
        export(checkpoint, tmp_path / "bundle", precision=precision, **options)
        return tmp_path / "bundle"

    return make


def graph_of(bundle: Path, name: str = "model.kernels.onnx") -> onnx.GraphProto:
    return onnx.load(bundle / name, load_external_data=False).graph


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}


@pytest.mark.parametrize(
    ("recipe", "fine"),
    [("int8", True), (INT4, False), (Recipe("8 bits", Scheme(8, 16), Scheme(8, 32)), True)],
    ids=["int8", "4 bits", "8 bits"],
)
def test_the_head_of_eight_bits_alone_is_fine(
    exported: Callable[..., Path], recipe: Recipe | str, fine: bool
) -> None:
    """A sixth of int8's divergence would be activations before the head."""
    nodes = [node for node in graph_of(exported(recipe=recipe)).node if node.domain == "sc2onnx"]
    said = [attributes(node).get("activation_bits") for node in nodes]
    assert said == [*[None] * (len(nodes) - 1), 16 if fine else None]


@pytest.mark.parametrize("biases", [True, False])
def test_a_layer_has_five_nodes(exported: Callable[..., Path], biases: bool) -> None:
    bundle = exported({"use_bias": biases}, INT4)
    graph = graph_of(bundle)
    ours = [node for node in graph.node if node.domain == "sc2onnx"]
    layer = ["BlockwiseLinear", "RingAttention", *["BlockwiseLinear"] * 3]
    assert [node.op_type for node in ours] == [*layer, *layer, "BlockwiseLinear"]
    qkv, attention, out, inner, back = ours[:5]
    name = "model.layers.0."

    def weights(product: str) -> list[str]:
        bias = f"{name}{product}.bias" if biases else ""
        return [f"{name}{product}.weight.codes", f"{name}{product}.weight.scales", bias]

    def norm(which: str) -> list[str]:
        return [f"{name}{which}.weight", f"{name}{which}.bias"]

    (embedded,) = (node.output[0] for node in graph.node if node.op_type == "GatherBlockQuantized")
    assert list(qkv.input) == [
        embedded,
        *weights("self_attn.qkv_proj"),
        *norm("input_layernorm"),
        "",
        *ADAPTER_INPUTS,
    ]
    caches = ["past_key_values.0.key", "past_key_values.0.value"]
    tables = ["rotary.cos_cache", "rotary.sin_cache"]
    assert list(attention.input) == [
        qkv.output[0],
        "input_ids",
        "past_lengths",
        *tables,
        *caches,
        STEP_LENGTHS,
        CACHE_ROWS,
    ]
    assert list(attention.output)[1:] == ["present.0.key", "present.0.value"]
    assert list(out.input) == [
        attention.output[0],
        *weights("self_attn.o_proj"),
        "",
        "",
        embedded,
        *ADAPTER_INPUTS,
    ]
    assert list(inner.input) == [
        out.output[0],
        *weights("mlp.c_fc"),
        *norm("post_attention_layernorm"),
        "",
        *ADAPTER_INPUTS,
    ]
    assert list(back.input) == [
        inner.output[0],
        *weights("mlp.c_proj"),
        "",
        "",
        out.output[0],
        *ADAPTER_INPUTS,
    ]
    epsilon = {"epsilon": float(np.float32(1e-5))}
    assert [node.attribute[-1].i for node in ours if node.attribute[-1].name == "product"] == [
        *range(8)
    ]
    assert attributes(qkv) == {
        "N": 128,
        "K": 64,
        "bits": 4,
        "block_size": 16,
        "product": 0,
        **epsilon,
    }
    assert attributes(attention) == {"num_heads": 4, "num_kv_heads": 2, "window": 5}
    assert attributes(out) == {"N": 64, "K": 64, "bits": 4, "block_size": 16, "product": 1}
    assert attributes(inner) == {
        "N": 128,
        "K": 64,
        "bits": 4,
        "block_size": 16,
        "gelu": 1,
        "product": 2,
        **epsilon,
    }
    assert attributes(back) == {"N": 64, "K": 128, "bits": 4, "block_size": 16, "product": 3}
    head = [
        "lm_head.weight.codes",
        "lm_head.weight.scales",
        "",
        "model.norm.weight",
        "model.norm.bias",
    ]
    assert list(ours[-1].input)[1:] == head
    assert attributes(ours[-1]) == {"N": 32, "K": 64, "bits": 8, "block_size": 32, **epsilon}


def test_it_takes_the_same_weights_from_the_same_places(exported: Callable[..., Path]) -> None:
    bundle = exported()

    def places(name: str) -> dict[str, bytes]:
        tensors = graph_of(bundle, name).initializer
        return {each.name: each.SerializeToString() for each in tensors if each.external_data}

    assert places("model.kernels.onnx") == places("model.onnx")


def test_what_goes_in_and_out(exported: Callable[..., Path]) -> None:
    bundle = exported()
    ours, usual = graph_of(bundle), graph_of(bundle, "model.onnx")
    for side in ("input", "output"):
        names = [[value.name for value in getattr(graph, side)] for graph in (ours, usual)]
        more = [STEP_LENGTHS, CACHE_ROWS, *ADAPTER_INPUTS] if side == "input" else []
        assert sorted(names[0]) == sorted([*names[1], *more])
    for value in (*ours.input, *ours.output):
        if ".key" in value.name or ".value" in value.name:
            tensor = value.type.tensor_type
            assert tensor.elem_type == onnx.TensorProto.UINT8
            dimensions = [size.dim_value or size.dim_param for size in tensor.shape.dim]
            assert dimensions == ["rows", 2, "capacity", "slot_bytes"]
    model = onnx.load(bundle / "model.kernels.onnx", load_external_data=False)
    versions = {opset.domain: opset.version for opset in model.opset_import}
    assert versions == {"": 24, "com.microsoft": 1, "sc2onnx": VERSION}
    onnx.checker.check_model(bundle / "model.kernels.onnx", full_check=True)


NONE_FOR: list[tuple[Mapping[str, Any], Recipe | str, Mapping[str, Any]]] = [
    ({}, "fp32", {}),
    ({}, "int8", {"target": "portable"}),
    ({}, "int8", {"target": "cuda"}),
    ({}, "int8", {"target": "genai"}),
    ({}, "int8", {"target": "optimum"}),
    ({"head_dim": 8}, INT4, {}),
    ({"head_dim": 24}, INT4, {}),
    ({"hidden_act": "gelu"}, "int8", {}),
]


@pytest.mark.parametrize(("changes", "recipe", "options"), NONE_FOR, ids=str)
def test_where_there_is_none(
    exported: Callable[..., Path],
    changes: Mapping[str, Any],
    recipe: Recipe | str,
    options: Mapping[str, Any],
) -> None:
    bundle = exported(changes, recipe, **options)
    manifest = Bundle.open(bundle, others=True).manifest
    assert (manifest.kernels, manifest.kernel_graphs) == (0, ())
    assert not list(bundle.glob("*.kernels.onnx"))


@pytest.mark.parametrize("act", ["gelu_pytorch_tanh", "gelu_new", "gelu_fast"])
def test_where_there_is_one(exported: Callable[..., Path], act: str) -> None:
    bundle = exported({"hidden_act": act})
    manifest = Bundle.open(bundle).manifest
    assert (manifest.kernels, manifest.kernel_graphs) == (VERSION, ("model.kernels.onnx",))
    assert {"model.onnx", "model.kernels.onnx"} < set(manifest.files)
    assert json.loads((bundle / "sc2onnx.json").read_text())["kernels"] == VERSION


def test_stages(exported: Callable[..., Path]) -> None:
    bundle = exported({"num_hidden_layers": 3}, stages=3)
    manifest = Bundle.open(bundle).manifest
    assert manifest.kernel_graphs == (
        "model.0.kernels.onnx",
        "model.1.kernels.onnx",
        "model.2.kernels.onnx",
    )
    for number, name in enumerate(manifest.kernel_graphs):
        ours = [node for node in graph_of(bundle, name).node if node.domain == "sc2onnx"]
        assert len(ours) == 5 + (number == 2)
        assert f"past_key_values.{number}.key" in ours[1].input


CASES: list[tuple[Mapping[str, Any], Recipe | str, int]] = [
    ({}, "int8", 1),
    ({}, INT4, 1),
    ({"tie_word_embeddings": False}, INT4, 1),
    (
        {"tie_word_embeddings": False, "use_bias": False},
        Recipe("a", Scheme(4, 32), Scheme(4, 16)),
        2,
    ),
    (
        {"sliding_window": None},
        Recipe("b", Scheme(4, 64), Scheme(8, 64), (Override("*.c_proj", Scheme(8, 32)),)),
        1,
    ),
    ({"sliding_window": 1, "num_key_value_heads": 4}, Recipe("c", Scheme(8, 16), Scheme(8, 16)), 2),
    ({"sliding_window": 39, "num_key_value_heads": 1}, INT4, 1),
    ({"sliding_window": 1000, "head_dim": 32}, INT4, 1),
    ({"num_hidden_layers": 1, "norm_epsilon": 0.1}, INT4, 1),
    (
        {"rope_theta": 999999.4420358813, "num_attention_heads": 1, "num_key_value_heads": 1},
        INT4,
        1,
    ),
    ({"hidden_size": 128, "head_dim": 32}, Recipe("d", Scheme(4, 128), Scheme(8, 128)), 1),
    (
        {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 16},
        Recipe("e", Scheme(4, 256), Scheme(8, 256)),
        1,
    ),
]


Tensors = Mapping[str, Array]


def original(settings: Mapping[str, Any], tensors: Tensors, bundle: Path) -> dict[str, Array]:
    """The checkpoint's tensors, its matrices as the bundle has them."""
    found, kv_size = dict(tensors), settings["num_key_value_heads"] * settings["head_dim"]
    for product, matrix in matrices(bundle).items():
        if product.endswith("qkv_proj"):
            rows = len(matrix.weights)
            parts = np.split(matrix.weights, [rows - 2 * kv_size, rows - kv_size])
            for part, weights in zip("qkv", parts, strict=True):
                found[product.replace("qkv_proj", f"{part}_proj.weight")] = weights
        else:
            found[f"{product}.weight"] = matrix.weights
    return found


@pytest.mark.parametrize(("changes", "recipe", "stages"), CASES, ids=str)
def test_it_computes_starcoder2(
    exported: Callable[..., Path],
    random_tensors: Callable[..., dict[str, Array]],
    settings: dict[str, Any],
    changes: Mapping[str, Any],
    recipe: Recipe | str,
    stages: int,
) -> None:
    """With the operators in numpy, activations not rounded: as plain float64 does, in any cut."""
    bundle = exported(changes, recipe, stages=stages)
    changed = {**settings, **SIZES, "intermediate_size": 128, **changes}
    tokens = np.random.default_rng(7).integers(0, 32, (1, LENGTH))
    weights = original(changed, random_tensors(changed), bundle)
    target = reference(changed, weights, tokens[0])[None]
    window = changed["sliding_window"] or LENGTH
    graphs = [bundle / name for name in Manifest.read(bundle).kernel_graphs]
    for sizes in ([LENGTH], [13, 1, 7, 1, 1, 1, 12, 4]):
        capacity = -(-min(window + max(sizes) - 1, LENGTH) // 16) * 16
        found = Stepper(graphs, 4 * changed["head_dim"], capacity, rounds=False).all(tokens, sizes)
        assert np.abs(found - target).max() <= TOLERANCE * np.abs(target).max()


@pytest.mark.parametrize("slots", ["float32", "int8"])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_it_is_the_graph_that_every_runtime_reads(
    int8_bundle: Path, int4_bundle: Path, reference: Mapping[str, Array], precision: str, slots: str
) -> None:
    """Of trained weights, past the window: both round activations, which is their difference."""
    bundle = {"int8": int8_bundle, "int4": int4_bundle}[precision]
    head_dim = Manifest.read(bundle).model.head_dim
    tokens, sizes = reference["tokens"][None, :340], [1, 37, 200, 62, 40]
    usual = Usual(load(bundle), capacity=512).all(tokens, sizes)
    slot_bytes = {"float32": 4 * head_dim, "int8": head_dim + 4}[slots]
    found = Stepper([bundle / "model.kernels.onnx"], slot_bytes, 320).all(tokens, sizes)
    assert np.abs(found - usual).max() <= 0.04 * np.abs(usual).max()
    assert (found.argmax(-1) == usual.argmax(-1)).mean() >= 0.99
    one, other = (log_softmax(logits) for logits in (usual, found))
    assert (np.exp(one) * (one - other)).sum(-1).mean() <= 1e-3


def log_softmax(logits: Array) -> Array:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def test_rows_of_other_lengths(int8_bundle: Path, reference: Mapping[str, Array]) -> None:
    """Each is computed as if it were alone."""
    graphs, slot_bytes, tokens = [int8_bundle / "model.kernels.onnx"], 4 * 64, reference["tokens"]
    alone = Stepper(graphs, slot_bytes, 320)
    alone.step(tokens[None, :7], 0)
    together = Stepper(graphs, slot_bytes, 320, batch=2)
    together.step(np.stack([tokens[:7], tokens[100:107]]), 0)
    together.past[1] = 3
    both = together.step(np.stack([tokens[7:9], tokens[103:105]]), 2)
    expected = alone.step(tokens[None, 7:9], 2)
    np.testing.assert_allclose(both[:1], expected, rtol=0, atol=0.02 * np.abs(expected).max())
