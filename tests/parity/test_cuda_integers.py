"""int8 and int4 bundles for a GPU, computed on the CPU with every rounding of half precision,
against torch with the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from sc2onnx.bundle.manifest import Manifest
from sc2onnx.export import Calibration, export
from sc2onnx.export.graph import quantized
from sc2onnx.export.graph.layers import bias
from sc2onnx.export.graph.ops import Recorder
from sc2onnx.verify import verify
from sc2onnx.verify.criterion import half_tolerance
from tests.parity.shapes import Shape, make

pytestmark = pytest.mark.filterwarnings("ignore:.*tokenizer.json:UserWarning")

EVEN = {"intermediate_size": 192}
SHAPES = [
    Shape("window of 7", EVEN),
    Shape(
        "no biases, separate head, no window",
        {**EVEN, "use_bias": False, "tie_word_embeddings": False, "sliding_window": None},
    ),
    Shape(
        "head size 128",
        {
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "sliding_window": 64,
        },
    ),
]


@pytest.fixture(params=["int8", "int4"])
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def exported(shape: Shape, precision: str, directory: Path) -> tuple[Path, Path]:
    checkpoint = make(shape, directory / "checkpoint")
    export(
        checkpoint,
        directory / "bundle",
        precision=precision,
        target="cuda",
        calibration=Calibration(False),
    )
    return checkpoint, directory / "bundle"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_length_split_and_rewind(shape: Shape, precision: str, tmp_path: Path) -> None:
    checkpoint, bundle = exported(shape, precision, tmp_path)
    report = verify(bundle, checkpoint, greedy_tokens=64)
    summary = report.summary
    assert summary.passed
    assert summary.tolerance == half_tolerance("fp16", 2)  # no activation is rounded to int8
    assert summary.max_rel_diff is not None
    assert summary.tolerance / 10 < summary.max_rel_diff <= summary.tolerance
    assert {result.case.split for result in report.cases} == {
        "at once",
        "token by token",
        "uneven chunks",
        "with rewinds",
    }


def test_the_calibrated_mini_bundle_passes_past_its_window(
    checkpoint: Path, tmp_path: Path
) -> None:
    export(
        checkpoint,
        tmp_path / "bundle",
        precision="int4",
        target="cuda",
        calibration=Calibration(tokens=1024),
    )
    summary = verify(tmp_path / "bundle", checkpoint, max_length=260, greedy_tokens=64).summary
    assert summary.passed
    assert summary.longest == 260
    quantization = Manifest.read(tmp_path / "bundle").quantization
    assert quantization is not None
    assert quantization.rounding == "calibrated"
    assert quantization.body_bits == 4.5  # a scale of two bytes for 32 codes


def test_what_the_kernels_of_a_gpu_take(precision: str, tmp_path: Path) -> None:
    """Blocks of 32, symmetric, no bias inside, scales of the activations' type; a tied head and the
    embedding are the same bytes.
    """
    _, bundle = exported(SHAPES[0], precision, tmp_path)
    graph = onnx.load(bundle / "model.onnx", load_external_data=False).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMulNBits"]
    assert len(products) == 2 * 4 + 1
    for node in products:
        attributes: Mapping[str, int] = {
            attribute.name: attribute.i for attribute in node.attribute
        }
        head = "lm_head" in node.input[1]
        assert (attributes["bits"], attributes["block_size"]) == (
            8 if head or precision == "int8" else 4,
            32,
        )
        assert attributes.get("accuracy_level", 0) == 0
        assert len([name for name in node.input if name]) == 3
        assert stored[node.input[2]].data_type == onnx.TensorProto.FLOAT16
    (gather,) = (node for node in graph.node if node.op_type == "GatherBlockQuantized")
    places = [
        {entry.key: entry.value for entry in stored[name].external_data}
        for name in (gather.input[0], "lm_head.weight.codes")
    ]
    assert places[0] == places[1]
    assert {tensor.data_type for tensor in graph.initializer if tensor.external_data} == {
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.UINT8,
    }


def test_a_bias_that_is_added_twice_is_noticed(
    precision: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def twice(op: Recorder, name: str) -> ir.Value | None:
        once = bias(op, name)
        return None if once is None else op.Add(once, once)

    monkeypatch.setattr(quantized, "bias", twice)
    checkpoint, bundle = exported(Shape("window of 7", EVEN), precision, tmp_path)
    assert not verify(bundle, checkpoint, greedy_tokens=0).summary.passed
