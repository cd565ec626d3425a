"""fp16 and bf16 exports: what is in which type, what is refused, and how large it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest

from sc2onnx.bundle.facts import CacheLayout
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import RequestError, TensorError
from sc2onnx.export import export, weights
from sc2onnx.export.checkpoint import Checkpoint
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.precision import Variant

Make = Callable[..., Path]
Tensors = dict[str, npt.NDArray[Any]]
FLOAT = onnx.TensorProto.FLOAT
HALVES = {
    "fp16": (onnx.TensorProto.FLOAT16, "float16", np.float16),
    "bf16": (onnx.TensorProto.BFLOAT16, "bfloat16", ml_dtypes.bfloat16),
}
STARCODER2_3B = {
    "model_type": "starcoder2",
    "vocab_size": 49152,
    "hidden_size": 3072,
    "intermediate_size": 12288,
    "num_hidden_layers": 30,
    "num_attention_heads": 24,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16384,
    "sliding_window": 4096,
    "rope_theta": 999999.4420358813,
}


@pytest.fixture
def make_checkpoint(make_checkpoint: Make) -> Make:
    """With heads that are wide enough for the operator."""

    def make(changes: Mapping[str, Any] | None = None, **choices: Any) -> Path:
        return make_checkpoint({"hidden_size": 64, **(changes or {})}, **choices)

    return make


@pytest.fixture(params=HALVES)
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def typed(bundle: Path) -> tuple[onnx.GraphProto, dict[str, int]]:
    """The graph, and the element type of every value in it."""
    model = onnx.shape_inference.infer_shapes(
        onnx.load(bundle / "model.onnx", load_external_data=False), strict_mode=True
    )
    graph = model.graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.output, *graph.value_info)
    }
    return graph, types | {tensor.name: tensor.data_type for tensor in graph.initializer}


@pytest.mark.parametrize(
    "changes",
    [{}, {"use_bias": False, "tie_word_embeddings": False, "sliding_window": None}],
    ids=str,
)
def test_only_logits_are_float32(
    make_checkpoint: Make, tmp_path: Path, precision: str, changes: dict[str, Any]
) -> None:
    half = HALVES[precision][0]
    export(make_checkpoint(changes), tmp_path / "bundle", precision=precision, target="cuda")
    onnx.checker.check_model(tmp_path / "bundle" / "model.onnx", full_check=True)
    graph, types = typed(tmp_path / "bundle")
    made = {
        (node.op_type, types[output])
        for node in graph.node
        for output in node.output
        if types[output] in (half, FLOAT)
    }
    # are the logits numbers?
    assert {operator for operator, dtype in made if dtype == FLOAT} == {"Cast", "Mul", "ReduceSum"}
    assert {operator for operator, dtype in made if dtype == half} == {
        *(
            "Gather",
            "LayerNormalization",
            "Gemm",
            "GroupQueryAttention",
            "Gelu",
            "Add",
            "Reshape",
            "Slice",
        )
    }
    assert [types[node.output[0]] for node in graph.node if node.op_type == "Cast"].count(
        FLOAT
    ) == 1
    assert {
        (opset.domain, opset.version)
        for opset in onnx.load(
            tmp_path / "bundle" / "model.onnx", load_external_data=False
        ).opset_import
    } == {
        ("", 21),  # the CUDA provider has gaps beyond
        ("com.microsoft", 1),
    }
    assert types["logits"] == FLOAT
    assert {types[value.name] for value in (*graph.input, *graph.output) if "." in value.name} == {
        half
    }
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer if tensor.external_data}
    assert set(stored.values()) == {half}


def test_norms_keep_their_statistics_in_float32(
    make_checkpoint: Make, tmp_path: Path, precision: str
) -> None:
    export(make_checkpoint(), tmp_path / "bundle", precision=precision, target="cuda")
    norms = [
        node for node in typed(tmp_path / "bundle")[0].node if node.op_type == "LayerNormalization"
    ]
    assert len(norms) == 5
    schema = onnx.defs.get_schema("LayerNormalization", 24)
    for node in norms:
        found = {attribute.name: attribute.i for attribute in node.attribute}
        assert found.get("stash_type", schema.attributes["stash_type"].default_value.i) == FLOAT


def test_the_manifest_says_so(make_checkpoint: Make, tmp_path: Path, precision: str) -> None:
    full = export(make_checkpoint(), tmp_path / "full")
    manifest = export(
        tmp_path / "checkpoint", tmp_path / "bundle", precision=precision, target="cuda"
    )
    assert (manifest.precision, manifest.target) == (precision, "cuda")
    assert manifest.cache == CacheLayout("linear", HALVES[precision][1])
    assert 2 * manifest.weight_bytes == full.weight_bytes
    assert 2 * manifest.cache.bytes_per_token(manifest.model) == full.cache.bytes_per_token(
        full.model
    )
    assert Manifest.read(tmp_path / "bundle") == manifest
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert f"| precision | {precision}, for cuda |" in card
    assert f"cache | linear, {HALVES[precision][1]}" in card


@pytest.mark.parametrize(
    ("precision", "target", "message"),
    [
        (
            "fp16",
            "cpu",
            (
                r"'fp16' for target 'cpu', .* slow \(.*casts to fp32.*\): choose fp32, int8 or "
                r"int4, or a GPU \(--target cuda\)"
            ),
        ),
        (
            "bf16",
            "cpu",
            (
                r"'bf16' for target 'cpu', .* slow \(.*no bf16 kernels\): choose fp32, int8 or "
                r"int4, or a GPU \(--target cuda\)"
            ),
        ),
        (
            "fp32",
            "cuda",
            (
                r"'fp32' for target 'cuda', .* in half precision only: choose --precision "
                r"fp16, bf16, int8 or int4"
            ),
        ),
        ("fp32", "gpu", "target is 'gpu', expected one of cpu, portable, cuda"),
        ("fp8", "cuda", "precision is 'fp8', expected one of fp32, fp16, bf16"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(
    tmp_path: Path, precision: str, target: str, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        export(tmp_path / "never read", tmp_path / "bundle", precision=precision, target=target)
    assert not list(tmp_path.iterdir())


def test_the_default_target_is_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="for target 'cpu'"):
        export(tmp_path / "never read", tmp_path / "bundle", precision="fp16")


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.self_attn.k_proj.weight",
        "model.layers.0.mlp.c_proj.bias",
        "model.embed_tokens.weight",
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_weight_beyond_the_range_of_fp16_is_refused_by_name(
    make_checkpoint: Make, tmp_path: Path, name: str, dtype: Any
) -> None:
    def enlarge(tensors: Tensors) -> None:
        tensors[name].flat[-1] = -70000

    checkpoint = make_checkpoint(edit=enlarge, dtype=dtype)
    place = tmp_path / "place"
    place.mkdir()
    shown = float(np.array(-70000).astype(dtype))
    with pytest.raises(
        TensorError,
        match=rf"tensor {name} holds {shown}, expected at most 65504 in fp16: .*--precision bf16",
    ):
        export(checkpoint, place / "bundle", precision="fp16", target="cuda")
    assert not list(place.iterdir())
    export(checkpoint, place / "bundle", precision="bf16", target="cuda")


def test_the_largest_number_of_fp16_is_accepted(make_checkpoint: Make, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(
        edit=lambda tensors: tensors["model.norm.bias"].__setitem__(0, 65504)
    )
    export(checkpoint, tmp_path / "bundle", precision="fp16", target="cuda")


def test_weights_and_tables_are_rounded_once(
    make_checkpoint: Make, random_tensors: Callable[..., Tensors], settings: Mapping[str, Any]
) -> None:
    opened = Checkpoint.open(make_checkpoint())
    config = Starcoder2Config.from_dict(opened.config)
    full = weights.graph_weights(opened, config, np.dtype(np.float32))
    for _, _, dtype in HALVES.values():
        for name, weight in weights.graph_weights(opened, config, np.dtype(dtype)).items():
            expected = np.concatenate(list(full[name].chunks())).astype(dtype)
            np.testing.assert_array_equal(
                np.concatenate(list(weight.chunks())), expected, strict=True
            )


def test_the_3b_model_takes_6_07_gb() -> None:
    config = Starcoder2Config.from_dict(STARCODER2_3B)
    tensors = {
        name: SimpleNamespace(name=name, shape=shape)
        for name, shape in weights.checkpoint_shapes(config).items()
    }
    for precision in HALVES:
        made = weights.graph_weights(
            cast(Checkpoint, SimpleNamespace(tensors=tensors)),
            config,
            Variant(precision, "cuda").dtype,
        )
        assert 6.06e9 < sum(weight.nbytes for weight in made.values()) <= 6.07e9


def test_the_command_line_passes_both_on(
    make_checkpoint: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sc2onnx.cli.main import main

    checkpoint = str(make_checkpoint())
    assert (
        main(["export", checkpoint, str(tmp_path / "a"), "--precision", "bf16", "--target", "cuda"])
        == 0
    )
    assert "parameters, bf16 for cuda, " in capsys.readouterr().out
    assert main(["info", str(tmp_path / "a"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["precision"], shown["target"], shown["cache"]["dtype"]) == (
        "bf16",
        "cuda",
        "bfloat16",
    )
    assert main(["info", str(tmp_path / "a")]) == 0
    assert "bf16, for cuda (ONNX opset 21" in capsys.readouterr().out
    assert main(["export", checkpoint, str(tmp_path / "b"), "--precision", "fp16"]) == 2
    assert "--target cuda" in capsys.readouterr().err
