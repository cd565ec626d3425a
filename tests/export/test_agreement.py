"""Every variant that can be exported agrees with its manifest, and what a graph may have is
what the exporter writes.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from sc2onnx.bundle.kernels import ENDING
from sc2onnx.errors import BundleIntegrityError
from sc2onnx.export import Calibration, export
from sc2onnx.runtime.opening.bundle import Bundle
from sc2onnx.runtime.opening.onnx_graph import read_graph
from sc2onnx.runtime.opening.operators import ADAPTERS, ALLOWED, ATTRIBUTES, KERNELS
from tests.parity.shapes import SHAPES, make

VARIANTS = [
    ("cpu", "fp32", 1), ("cpu", "fp32", 2), ("cpu", "int8", 1), ("cpu", "int4", 3),
    ("portable", "fp32", 1), ("portable", "int8", 1), ("portable", "int4", 2),
    ("cuda", "fp16", 1), ("cuda", "bf16", 2), ("cuda", "int8", 2), ("cuda", "int4", 1),
    ("genai", "fp32", 1), ("genai", "fp16", 1), ("genai", "int8", 1),
    ("optimum", "fp32", 1), ("optimum", "int8", 1),
]  # fmt: skip

EARLIER = {"portable": {"TensorScatter"}}
"""What only earlier exporters wrote."""


@pytest.fixture(scope="module")
def bundles(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str, int], Path]:
    directory, made = tmp_path_factory.mktemp("variants"), dict[tuple[str, str, int], Path]()
    for target, precision, stages in VARIANTS:
        made[target, precision, stages] = out = directory / f"{target}-{precision}-{stages}"
        nearest = Calibration(False) if precision == "int4" else None
        export(
            checkpoint, out, target=target, precision=precision, stages=stages, calibration=nearest
        )
    return made


def test_every_variant_opens(bundles: dict[tuple[str, str, int], Path]) -> None:
    for path in bundles.values():
        assert Bundle.open(path, others=True).directory == path


def test_what_is_allowed_is_what_is_written(bundles: dict[tuple[str, str, int], Path]) -> None:
    known = {(operator, name) for operator, names in ATTRIBUTES.items() for name in names}
    for target, kernels, allowed in [
        *((target, False, allowed) for target, allowed in ALLOWED.items()),
        ("cpu", True, KERNELS),
    ]:
        files = [
            file
            for key, path in bundles.items()
            if key[0] == target
            for file in path.glob("*.onnx")
        ]
        graphs = [
            read_graph(file.read_bytes()) for file in files if file.name.endswith(ENDING) == kernels
        ]
        written = {node.operator for graph in graphs for node in graph.nodes}
        assert allowed - EARLIER.get(target, set()) <= written, target
        others = allowed if kernels else allowed | ADAPTERS
        assert written <= others, target
        assert {
            (node.operator, name)
            for graph in graphs
            for node in graph.nodes
            for name in node.attributes
        } <= known


@pytest.mark.parametrize("said", ["none", "even", "anx"])
def test_which_steps_agree_is_what_the_graph_shows(
    bundles: dict[tuple[str, str, int], Path], said: str
) -> None:
    path = bundles["cpu", "int8", 1] / "sc2onnx.json"
    original = path.read_text()
    assert json.loads(original)["agreeing_steps"] == "any"
    path.write_text(json.dumps({**json.loads(original), "agreeing_steps": said}))
    try:
        with pytest.raises(
            BundleIntegrityError,
            match=rf"which steps agree is any in model\.onnx, the manifest says {said}",
        ):
            Bundle.open(path.parent, "size")
    finally:
        path.write_text(original)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.filterwarnings("ignore:.*tokenizer.json:UserWarning")
def test_every_shape_opens(shape: object, tmp_path: Path) -> None:
    export(make(shape, tmp_path / "checkpoint"), tmp_path / "bundle")  # type: ignore[arg-type]
    assert Bundle.open(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("variant", "product", "scheme"),
    [
        (("cpu", "int4", 3), "model.layers.5.mlp.c_fc", {"bits": 4, "block_size": 32}),
        (("cpu", "int8", 1), "model.embed_tokens", {"bits": 8, "block_size": 64}),
        (
            ("portable", "int4", 2),
            "model.layers.0.self_attn.o_proj",
            {"bits": 8, "block_size": 128},
        ),
        (("cuda", "int8", 2), "lm_head", {"bits": 8, "block_size": 64}),
        (("optimum", "int8", 1), "lm_head", {"bits": 4, "block_size": 32}),
    ],
)
def test_schemes_that_the_graph_contradicts(
    bundles: dict[tuple[str, str, int], Path],
    variant: tuple[str, str, int],
    product: str,
    scheme: dict[str, int],
) -> None:
    path = bundles[variant] / "sc2onnx.json"
    original = path.read_text()
    raw = json.loads(original)
    try:
        for schemes in (
            {**raw["quantization"]["schemes"], product: scheme},
            {**raw["quantization"]["schemes"], "model.x": scheme},
        ):
            path.write_text(
                json.dumps({**raw, "quantization": {**raw["quantization"], "schemes": schemes}})
            )
            with pytest.raises(
                BundleIntegrityError, match=r"the manifest says .*altered or damaged"
            ):
                Bundle.open(path.parent, "size", others=True)
        for change in ({"body_bits": 4.0}, {"recipe": "other"}):
            path.write_text(json.dumps({**raw, "quantization": {**raw["quantization"], **change}}))
            with pytest.raises(BundleIntegrityError, match="altered or damaged"):
                Bundle.open(path.parent, "size", others=True)
    finally:
        path.write_text(original)


@pytest.mark.parametrize(
    "variant",
    [("genai", "fp32", 1), ("optimum", "int8", 1), ("cuda", "fp16", 1), ("cuda", "bf16", 2)],
)
@pytest.mark.parametrize(
    "change",
    [
        {"sliding_window": 255}, {"sliding_window": None}, {"num_layers": 7},
        {"num_heads": 8}, {"num_kv_heads": 4},
        {"head_dim": 32}, {"vocab_size": 4095}, {"context_length": 2047},
        {"rope_theta": 101000.0}, {"hidden_size": 512},
    ],
    ids=str,
)  # fmt: skip
def test_facts_that_other_graphs_contradict(
    bundles: dict[tuple[str, str, int], Path],
    variant: tuple[str, str, int],
    change: dict[str, object],
) -> None:
    path = bundles[variant] / "sc2onnx.json"
    original = path.read_text()
    raw = json.loads(original)
    raw["model"].update(change)
    if "num_layers" in change and raw["stages"]:
        raw["stages"] = [3, 4]
    path.write_text(json.dumps(raw))
    try:
        with pytest.raises(BundleIntegrityError), warnings.catch_warnings():
            Bundle.open(path.parent, "size", others=True)
    finally:
        path.write_text(original)
