"""fp16 and bf16 bundles against torch: what rounding explains passes, mistakes do not."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from math import inf, nan
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
import transformers

import sc2onnx
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import DeviceError, RequestError
from sc2onnx.evaluate.measure import Difference, Floats, Parting, compare, part
from sc2onnx.export import export
from sc2onnx.verify import TOLERANCE, verify
from sc2onnx.verify.criterion import Criterion, criterion, half_tolerance
from sc2onnx.verify.emulate import emulated
from sc2onnx.verify.reference import Reference
from sc2onnx.verify.subject import Played, open_subject
from tests.parity.mistakes import GQA_MISTAKES
from tests.parity.shapes import SHAPES, Shape, make
from tests.runtime.rows import cache_of

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
DEEP = Shape("12 layers", {"num_hidden_layers": 12, "sliding_window": 64})
ODD = "three groups of two, odd sizes"
NAMES = (
    "window of 1",
    "window of 7",
    "no biases, separate head, no window",
    "head size 128",
    "stored as fp16",
    "wide epsilon, one layer",
)
UNEVEN = Shape("odd sizes", {"hidden_size": 96, "intermediate_size": 101, "num_attention_heads": 6})
TAKEN = [
    *(shape for shape in SHAPES if shape.name != ODD),
    Shape("odd sizes", {"hidden_size": 96, "intermediate_size": 101, "num_attention_heads": 6}),
]
CHOSEN = [shape for shape in SHAPES if shape.name in NAMES]

pytestmark = pytest.mark.filterwarnings("ignore:.*tokenizer.json:UserWarning")


@pytest.fixture(params=DTYPES)
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def exported(shape: Shape, precision: str, directory: Path) -> tuple[Path, Path]:
    """Checkpoint and bundle."""
    checkpoint = make(shape, directory / "checkpoint")
    export(checkpoint, directory / "bundle", precision=precision, target="cuda")
    return checkpoint, directory / "bundle"


@pytest.mark.parametrize("shape", CHOSEN, ids=str)
def test_every_length_split_and_rewind(shape: Shape, precision: str, tmp_path: Path) -> None:
    checkpoint, bundle = exported(shape, precision, tmp_path)
    report = verify(bundle, checkpoint, greedy_tokens=64)
    summary = report.summary
    assert summary.passed
    assert summary.tolerance == half_tolerance(precision, Manifest.read(bundle).model.num_layers)
    assert summary.max_rel_diff is not None
    assert summary.tolerance / 10 < summary.max_rel_diff <= summary.tolerance
    assert {result.case.split for result in report.cases} == {
        "at once",
        "token by token",
        "uneven chunks",
        "with rewinds",
    }
    window = {"sliding_window": 7, **shape.config}["sliding_window"]
    assert summary.longest == (2 * window + 3 if window else 259)
    assert Manifest.read(bundle).verification == summary


def test_the_mini_bundle_passes_past_its_window(
    checkpoint: Path, precision: str, tmp_path: Path
) -> None:
    export(checkpoint, tmp_path / "bundle", precision=precision, target="cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = verify(tmp_path / "bundle", checkpoint, max_length=260, greedy_tokens=64).summary
    assert summary.passed
    assert summary.longest == 260
    assert summary.max_rel_diff is not None
    assert summary.max_rel_diff < summary.tolerance / 3
    assert summary.kl_divergence is not None
    assert summary.kl_divergence < {"fp16": 1e-5, "bf16": 5e-4}[precision]


@pytest.mark.parametrize("shape", [*TAKEN, DEEP], ids=str)
def test_the_roundings_are_those_of_torch_in_the_same_precision(
    shape: Shape, precision: str, tmp_path: Path
) -> None:
    """Not better, which would mean that roundings were dropped, and not worse.
    Past the window, in uneven steps.
    """
    checkpoint, bundle = exported(shape, precision, tmp_path)
    tokens = np.random.default_rng(0).integers(0, 97, 200)
    with Reference(checkpoint) as reference:
        expected = reference.logits(tokens[None])[0]
    model = transformers.Starcoder2ForCausalLM.from_pretrained(
        checkpoint, dtype=DTYPES[precision], attn_implementation="eager"
    )
    with torch.inference_mode():
        theirs = model(torch.from_numpy(tokens)[None], use_cache=False).logits.float().numpy()[0]
    with open_subject(bundle).sequence() as sequence:
        ours = np.concatenate(
            [
                appended(sequence, tokens[:90]),
                *(appended(sequence, tokens[i : i + 1]) for i in range(90, 200)),
            ]
        )
    found, torchs = (compare(logits, expected, tokens[1:]) for logits in (ours, theirs))
    assert 0.6 * torchs.kl_divergence < found.kl_divergence < 1.5 * torchs.kl_divergence
    assert found.max_rel_diff < 2 * torchs.max_rel_diff
    assert max(found.max_rel_diff, torchs.max_rel_diff) <= half_tolerance(
        precision, len(model.model.layers)
    )


def appended(sequence: Played, tokens: npt.NDArray[np.int64]) -> Floats:
    logits = sequence.append(tokens)
    assert logits is not None
    return logits


@pytest.mark.parametrize("mistake", GQA_MISTAKES, ids=lambda mistake: mistake.__name__)
def test_mistakes_are_far_outside_even_in_bf16(
    mistake: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mistake(monkeypatch)
    checkpoint, bundle = exported(Shape("window of 7"), "bf16", tmp_path)
    summary = verify(bundle, checkpoint, greedy_tokens=8).summary
    assert not summary.passed
    assert summary.max_rel_diff is not None
    assert summary.max_rel_diff > 3 * summary.tolerance


def test_an_fp16_bundle_computes_with_onnxruntime_alone(checkpoint: Path, tmp_path: Path) -> None:
    export(checkpoint, tmp_path / "bundle", precision="fp16", target="cuda")
    with pytest.warns(UserWarning, match="fp16 for cuda"):
        plain = sc2onnx.load(tmp_path / "bundle")
    tokens = np.random.default_rng(0).integers(0, 4096, 300)
    with Reference(checkpoint) as reference:
        expected = reference.logits(tokens[None])[0]
    with plain.sequence() as sequence:
        ours = np.concatenate([appended(sequence, tokens[:290]), appended(sequence, tokens[290:])])
        assert {buffer.dtype for buffer in cache_of(sequence).buffers} == {np.dtype(np.float16)}
    assert TOLERANCE < compare(ours, expected, tokens[1:]).max_rel_diff < half_tolerance("fp16", 6)


def test_the_emulation_leaves_no_node_that_computes_in_half_precision(
    precision: str, tmp_path: Path
) -> None:
    _, bundle = exported(Shape("window of 7"), precision, tmp_path)
    model = onnx.shape_inference.infer_shapes(
        onnx.load_model_from_string(emulated(bundle / "model.onnx")), strict_mode=True
    )
    graph, float32 = model.graph, onnx.TensorProto.FLOAT
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.output, *graph.value_info)
    }
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    half = types["past_key_values.0.key"]
    halves = {
        node.op_type for node in graph.node if half in (types[name] for name in node.input if name)
    }
    assert halves == {"Cast", "Gather", "Reshape", "Slice", "Shape"}
    made = {node.output[0]: node.op_type for node in graph.node}
    used = {name: {node.op_type for node in graph.node if name in node.input} for name in made}
    for name, operator in made.items():
        if operator in ("Gemm", "LayerNormalization", "Gelu", "GroupQueryAttention"):
            assert types[name] == float32
            assert used[name] == {"Cast"}  # rounded before anything else sees it
    outputs = [(value.name, value.type.tensor_type.elem_type) for value in graph.output]
    assert {dtype for name, dtype in outputs if name.startswith("present.")} == {half}
    assert {
        entry.value
        for tensor in graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    } == {"model.onnx.data"}
    assert [value.name for value in graph.output] == [
        value.name
        for value in onnx.load(bundle / "model.onnx", load_external_data=False).graph.output
    ]


def test_heads_that_the_operator_does_not_take_are_refused_before_any_work(
    precision: str, tmp_path: Path
) -> None:
    shape = next(shape for shape in SHAPES if shape.name == ODD)
    with pytest.raises(
        RequestError,
        match=(
            "heads are 12 wide, expected a multiple of 16 for a GPU in half "
            "precision: choose --target cpu"
        ),
    ):
        exported(shape, precision, tmp_path)
    assert not (tmp_path / "bundle").exists()


def difference(**changes: float) -> Difference:
    return dataclasses.replace(
        Difference(1, 1, 0.01, 1.0, 1e-4, 1.0, 1.0, 1.0, 1.0),
        **changes,  # type: ignore[arg-type]
    )


def test_greedy_tokens_may_part_only_at_near_ties_and_in_fp32_never() -> None:
    half, full = criterion("bf16", 6), criterion("fp32", 6)
    assert half.tolerance == pytest.approx(0.053, rel=0.01)
    assert half.tolerance == pytest.approx(8 * criterion("fp16", 6).tolerance)
    assert half.passes(difference(), None)
    assert half.passes(difference(), Parting(5, 2 * half.tolerance))
    assert not half.passes(difference(), Parting(5, 2.01 * half.tolerance))
    assert not half.passes(difference(max_abs_diff=1.01 * half.tolerance), None)
    assert full.passes(difference(max_abs_diff=TOLERANCE), None)
    assert not full.passes(difference(max_abs_diff=TOLERANCE), Parting(5, 0.0))
    assert not full.passes(difference(), None)


def test_a_criterion_may_be_on_another_figure_and_numbers_that_are_none_fail_any() -> None:
    kl = Criterion("kl_divergence", 0.02, "reported")
    assert kl.passes(difference(max_abs_diff=9.0), Parting(0, 1.0))
    assert not kl.passes(difference(kl_divergence=0.03), None)
    assert not kl.passes(difference(nll=nan), None)


def test_where_greedy_decoding_parts() -> None:
    logits = np.array([[1, 2, 3], [4, -8, 3], [0, 1, 0]], dtype=np.float32)
    assert part([2, 0, 1], [2, 0, 1], logits) is None
    assert part([2, 2, 1], [2, 0, 1], logits) == Parting(1, 0.125)
    assert part([2], [2, 0, 1], logits) == Parting(1, inf)
    assert part([], [], logits[:0]) is None


def test_a_device_that_is_not_there_is_named_before_anything_is_compared(
    checkpoint: Path, tmp_path: Path
) -> None:
    """On a GPU this is for tests/cuda."""
    export(checkpoint, tmp_path / "bundle", precision="fp16", target="cuda")
    with pytest.raises(DeviceError, match="cuda:7"):
        verify(tmp_path / "bundle", checkpoint, max_length=4, device="cuda:7")
    export(checkpoint, tmp_path / "fp32")
    with pytest.raises(DeviceError, match="export it for a GPU"):
        verify(tmp_path / "fp32", checkpoint, max_length=4, device="cuda")
