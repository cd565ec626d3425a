"""Quantised exports, without torch: the same numbers for both targets, the graphs they
are in, and what is refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest

import sc2onnx
from sc2onnx.bundle.directories import cache_directory
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.schemes import Scheme
from sc2onnx.errors import RequestError, TensorError
from sc2onnx.export import Calibration, export
from sc2onnx.export.progress import Silent
from sc2onnx.export.quantize.codec import quantise
from sc2onnx.export.quantize.corpus import LENGTH
from sc2onnx.export.quantize.recipe import PRESETS, Override, Recipe
from tests.export.quantize.definition import matrices, meaning

Make = Callable[..., Path]
Tensors = dict[str, npt.NDArray[Any]]
Contents = Callable[[Path], dict[str, bytes | None]]

NEAREST = Calibration(False)
EMBEDDING, HEAD, LAYERS = "model.embed_tokens", "lm_head", "model.layers"
SIZES = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 192}


@dataclass(frozen=True)
class Case:
    """A checkpoint by its changes to the tiny one, and a recipe, or the name of one."""

    changes: Mapping[str, Any]
    recipe: Recipe | str
    dtype: Any = np.float32

    def __str__(self) -> str:
        return f"{self.recipe if isinstance(self.recipe, str) else self.recipe.name}"


CASES = [
    Case({}, "int8"),
    Case({"tie_word_embeddings": False, "use_bias": False}, "int8", ml_dtypes.bfloat16),
    Case({"num_key_value_heads": 1}, Recipe("4 bits in 16", Scheme(4, 16), Scheme(8, 32))),
    Case(
        {"num_key_value_heads": 4, "use_bias": False},
        Recipe("4 bits in 32", Scheme(4, 32), Scheme(8, 16)),
        np.float16,
    ),
    Case(
        {"tie_word_embeddings": False},
        Recipe(
            "4 bits in 64", Scheme(4, 64), Scheme(8, 64), (Override("*.c_proj", Scheme(8, 32)),)
        ),
    ),
    Case({"hidden_size": 256, "intermediate_size": 768}, "int4-fast"),
    Case(
        {"hidden_size": 256, "intermediate_size": 512, "use_bias": False},
        Recipe("in 256", Scheme(4, 256), Scheme(8, 256)),
    ),
]


@pytest.fixture
def make_bundle(make_checkpoint: Make, tmp_path: Path) -> Callable[..., Path]:
    """``make_bundle(case, target)`` exports to the nearest; the checkpoint is beside it."""

    def make(case: Case, target: str) -> Path:
        if not (tmp_path / "checkpoint").exists():
            make_checkpoint({**SIZES, **case.changes}, dtype=case.dtype)
        precision = case.recipe
        if isinstance(precision, Recipe):
            (tmp_path / "recipe.json").write_text(precision.to_json())
            precision = str(tmp_path / "recipe.json")
        export(
            tmp_path / "checkpoint",
            tmp_path / target,
            precision=precision,
            target=target,
            calibration=NEAREST,
        )
        return tmp_path / target

    return make


every_case = pytest.mark.parametrize("case", CASES, ids=str)
both_targets = pytest.mark.parametrize("target", ["cpu", "portable"])


def float_matrices(tensors: Tensors, layers: int) -> Tensors:
    """The checkpoint's matrices by their names in the graph, where
    queries, keys and values are one.
    """
    found = {
        name.removesuffix(".weight"): array
        for name, array in tensors.items()
        if (array.ndim == 2 and "_proj" not in name) or "c_proj" in name
    }
    for layer in range(layers):
        name = f"{LAYERS}.{layer}.self_attn"
        found[f"{name}.qkv_proj"] = np.concatenate(
            [tensors[f"{name}.{part}_proj.weight"] for part in "qkv"]
        )
        found[f"{name}.o_proj"] = tensors[f"{name}.o_proj.weight"]
    return {name: array for name, array in found.items() if array.ndim == 2}


@every_case
def test_both_targets_hold_the_weights_of_the_checkpoint_rounded(
    make_bundle: Make, random_tensors: Callable[..., Tensors], settings: dict[str, Any], case: Case
) -> None:
    """Bit for bit, as a reader finds them in the files that shares no code with the exporter."""
    cpu, portable = matrices(make_bundle(case, "cpu")), matrices(make_bundle(case, "portable"))
    changed = {**settings, **SIZES, **case.changes}
    stored = {
        name: array.astype(case.dtype).astype(np.float32)
        for name, array in random_tensors(changed).items()
    }
    expected = float_matrices(stored, changed["num_hidden_layers"])
    assert set(cpu) == set(portable) == {*expected, HEAD}
    recipe = PRESETS[case.recipe] if isinstance(case.recipe, str) else case.recipe
    for name, original in expected.items():
        scheme = recipe.head if name in (EMBEDDING, HEAD) else recipe.scheme(name)
        rounded = quantise(original, scheme)
        wanted = meaning(rounded.codes, rounded.scales, scheme.block_size)
        for found in (cpu[name], portable[name]):
            np.testing.assert_array_equal(found.weights.view(np.uint32), wanted.view(np.uint32))
            assert (found.bits, found.block_size) == (scheme.bits, scheme.block_size)
        assert (
            0
            < np.abs(wanted - original).max()
            < np.abs(original).max() / (3 if scheme.bits == 4 else 100)
        )
    for bundle in (cpu, portable) if changed["tie_word_embeddings"] else ():
        np.testing.assert_array_equal(
            bundle[HEAD].weights.view(np.uint32), bundle[EMBEDDING].weights.view(np.uint32)
        )


def external_bytes(graph: onnx.GraphProto) -> dict[str, tuple[int, int]]:
    """Offset and length of every weight by name."""
    found = {}
    for tensor in graph.initializer:
        where = {entry.key: entry.value for entry in tensor.external_data}
        if where:
            found[tensor.name] = (int(where["offset"]), int(where["length"]))
    return found


@both_targets
@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_takes_no_bytes(make_bundle: Make, tied: bool, target: str) -> None:
    bundle = make_bundle(Case({"tie_word_embeddings": tied}, "int8"), target)
    places = external_bytes(onnx.load(bundle / "model.onnx", load_external_data=False).graph)
    for kind in ("codes", "scales"):
        assert (places[f"{HEAD}.weight.{kind}"] == places[f"{EMBEDDING}.weight.{kind}"]) == tied
    apart = sorted(set(places.values()))
    assert all(first + length <= second for (first, length), (second, _) in pairwise(apart))
    assert sum(length for _, length in apart) == Manifest.read(bundle).weight_bytes
    assert (bundle / "model.onnx.data").stat().st_size == sum(apart[-1])


@every_case
def test_the_cpu_graph(make_bundle: Make, case: Case) -> None:
    """One product per matrix, which rounds activations, with the bias inside;
    everything else is standard.
    """
    bundle = make_bundle(case, "cpu")
    graph = onnx.load(bundle / "model.onnx", load_external_data=False).graph
    foreign = [node for node in graph.node if node.domain]
    assert {node.domain for node in foreign} == {"com.microsoft"}
    assert (
        sorted(node.op_type for node in foreign) == ["GatherBlockQuantized"] + ["MatMulNBits"] * 9
    )
    assert not {node.op_type for node in graph.node} & {"Gemm", "DequantizeLinear"}
    for node in foreign[1:]:
        assert {attribute.name: attribute.i for attribute in node.attribute}["accuracy_level"] == 4
        bias = node.input[5] if len(node.input) > 5 else ""
        assert bias == (
            node.input[1].replace("weight.codes", "bias")
            if case.changes.get("use_bias", True) and HEAD not in node.input[1]
            else ""
        )


@every_case
def test_the_portable_graph_is_standard_and_onnxruntime_makes_the_same_of_it(
    make_bundle: Make, tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the session options of the runtime: every product becomes one of packed
    weights that rounds activations.

    A tied head too, which would otherwise be made floats of at every step.
    """
    bundle = make_bundle(case, "portable")
    onnx.checker.check_model(bundle / "model.onnx", full_check=True)
    model = onnx.load(bundle / "model.onnx", load_external_data=False)
    assert {node.domain for node in model.graph.node} == {""}
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 23)]
    assert sum(node.op_type == "DequantizeLinear" for node in model.graph.node) == 9
    options_of_ort = ort.SessionOptions

    def saving() -> Any:
        options = options_of_ort()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        return options

    monkeypatch.setattr("sc2onnx.runtime.ort.options.ort.SessionOptions", saving)
    sc2onnx.load(bundle)
    nodes = onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph.node
    products = [
        {attribute.name: attribute.i for attribute in node.attribute}
        for node in nodes
        if node.op_type == "MatMulNBits"
    ]
    assert [product["accuracy_level"] for product in products] == [4] * 9
    schemes = Manifest.read(bundle).quantization
    assert schemes is not None
    layers = {name: scheme for name, scheme in schemes.schemes.items() if name != EMBEDDING}
    assert sorted((product["bits"], product["block_size"]) for product in products) == sorted(
        map(astuple, layers.values())
    )
    assert not any(node.op_type == "DequantizeLinear" for node in nodes)


class Stages(Silent):
    def __init__(self) -> None:
        self.begun: list[str] = []

    def stage(self, text: str, total: int = 0) -> None:
        self.begun.append(text.split()[0])


@both_targets
@pytest.mark.parametrize("calibration", [NEAREST, Calibration(True)], ids=["nearest", "calibrated"])
@pytest.mark.parametrize(
    ("changes", "precision", "message"),
    [
        (
            {"hidden_size": 72, "num_attention_heads": 6},
            "int8",
            rf"{EMBEDDING}\.weight has 72 inputs, which blocks of 32 do not divide",
        ),
        (
            {"intermediate_size": 160},
            "int8",
            rf"{LAYERS}\.0\.mlp\.c_proj\.weight has 160 inputs, .* 64 .* \(those that do: 16, 32\)",
        ),
        (
            {"intermediate_size": 101},
            "int4-fast",
            (
                rf"{EMBEDDING}\.weight has 64 inputs, .* blocks of 128 .* \(those "
                r"that do: 16, 32, 64\)"
            ),
        ),
        (
            {"head_dim": 10},
            "int8",
            (
                rf"{LAYERS}\.0\.self_attn\.o_proj\.weight has 40 inputs, .* blocks of 64 .* "
                r"divide: no block size does, export it in floats"
            ),
        ),
        (
            {"hidden_size": 128},
            "int4",
            (
                rf"{LAYERS}\.0\.self_attn\.qkv_proj\.weight, which may be lifted, has 128 "
                r"inputs, .* blocks of 256"
            ),
        ),
    ],
)
def test_blocks_that_do_not_divide_a_matrix_are_refused_before_any_work(
    make_checkpoint: Make,
    place: Path,
    contents: Contents,
    changes: Mapping[str, Any],
    precision: str,
    message: str,
    calibration: Calibration,
    target: str,
) -> None:
    checkpoint, stages = make_checkpoint({**SIZES, **changes}), Stages()
    with pytest.raises(RequestError, match=message):
        export(
            checkpoint,
            place / "bundle",
            precision=precision,
            target=target,
            calibration=calibration,
            progress=stages,
        )
    assert stages.begun == ["reading"]
    assert contents(place) == {}
    assert not cache_directory().exists()


BROKEN = (
    f"{EMBEDDING}.weight",
    f"{LAYERS}.1.self_attn.k_proj.weight",
    f"{LAYERS}.0.mlp.c_proj.weight",
    f"{LAYERS}.1.mlp.c_fc.bias",
    "model.norm.weight",
    f"{HEAD}.weight",
)
RECIPES = (
    Recipe("8 bits", Scheme(8, 64), Scheme(8, 32)),
    Recipe("4 bits", Scheme(4, 16), Scheme(8, 32)),
)


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_number_that_is_not_finite_is_named_by_tensor(
    make_checkpoint: Make,
    place: Path,
    tmp_path: Path,
    contents: Contents,
    name: str,
    value: float,
    dtype: Any,
) -> None:
    """Whatever the bits and the layout; quantised it would be an ordinary number."""

    def damage(tensors: Tensors) -> None:
        tensors[name].flat[-3:] = value

    checkpoint = make_checkpoint({**SIZES, "tie_word_embeddings": False}, edit=damage, dtype=dtype)
    for recipe in RECIPES:
        (tmp_path / "recipe.json").write_text(recipe.to_json())
        for target in ("cpu", "portable"):
            with pytest.raises(
                TensorError,
                match=(
                    rf"tensor {name} holds {value} \(3 such numbers\), expected finite ones: the "
                    r"checkpoint is damaged"
                ),
            ):
                export(
                    checkpoint,
                    place / "bundle",
                    precision=str(tmp_path / "recipe.json"),
                    target=target,
                )
            assert contents(place) == {}


@pytest.mark.parametrize("name", BROKEN[:5])
def test_nor_does_it_go_through_calibration(
    make_checkpoint: Make,
    checkpoint: Path,
    place: Path,
    tmp_path: Path,
    contents: Contents,
    name: str,
) -> None:
    def damage(tensors: Tensors) -> None:
        tensors[name].flat[5] = np.nan

    source = make_checkpoint({**SIZES, "vocab_size": 4096}, edit=damage)
    shutil.copy(checkpoint / "tokenizer.json", source / "tokenizer.json")
    (tmp_path / "recipe.json").write_text(RECIPES[1].to_json())
    with pytest.raises(TensorError, match=rf"tensor {name} holds nan \(1 such numbers\)"):
        export(
            source,
            place / "bundle",
            precision=str(tmp_path / "recipe.json"),
            calibration=Calibration(True, tokens=LENGTH),
        )
    assert contents(place) == {}


def test_drafts_do_not_change_the_tokens_of_int8(checkpoint: Path, tmp_path: Path) -> None:
    """The products of its blocks are the same for one row and for several, to the last bit; what is
    drafted is then what would have come.
    """
    export(checkpoint, tmp_path / "int8", precision="int8", calibration=NEAREST)
    drafting, plain = (
        sc2onnx.load(tmp_path / "int8", speculate=speculate) for speculate in (None, False)
    )
    text = Path(sc2onnx.__file__).with_name("errors.py").read_text()
    tokens = plain.codec.encode(text)[:600]
    with plain.sequence() as one, plain.sequence() as several:
        singly = np.concatenate([one.append([token]) for token in tokens[:300]])
        together = np.concatenate([several.append(tokens[i : i + 5]) for i in range(0, 300, 5)])
    assert np.abs(singly - together).max() <= 1e-5 * np.abs(singly).max()
    for length in (150, 400, 600):
        prompt = b"".join(map(plain.codec.token_bytes, tokens[:length])).decode()
        done = drafting.generate(prompt, max_new_tokens=128, stop_tokens=())
        assert done == plain.generate(prompt, max_new_tokens=128, stop_tokens=())
