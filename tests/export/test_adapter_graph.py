"""The graph that takes adapters: in stages, for others, and refused where it is not ours."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import sc2onnx
from sc2onnx.bundle.adapters import LANES, MATRICES_FILE, matrix_name
from sc2onnx.errors import AdapterError, BundleIntegrityError
from sc2onnx.export import Calibration, export
from sc2onnx.export.onnx_adapter import onnx_adapter
from sc2onnx.runtime.opening.bundle import Bundle
from sc2onnx.runtime.ort.adapter_bank import LaneBank
from tests.adapters import random_adapter
from tests.runtime.opening.test_agreement import edit, replace

GRAPH = "model.adapters.onnx"
Exported = Callable[..., Path]


@pytest.fixture(scope="module")
def exported(
    checkpoint: Path, bundle: Path, int8_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    """Bundles of the mini checkpoint, each made once."""
    made: dict[tuple[Any, ...], Path] = {("fp32", "cpu", 1): bundle}
    made["int8", "cpu", 1] = int8_bundle
    out = tmp_path_factory.mktemp("exported")

    def of(precision: str, target: str = "cpu", stages: int = 1) -> Path:
        key = precision, target, stages
        if key not in made:
            made[key] = out / "-".join(map(str, key))
            chosen = Calibration(False) if precision.startswith("int") else None
            how: dict[str, Any] = {"target": target, "stages": stages, "calibration": chosen}
            export(checkpoint, made[key], precision=precision, **how)
        return made[key]

    return of


def logits(model: sc2onnx.Model, tokens: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    with model.sequence(adapter=name) as sequence:
        return np.asarray(sequence.append(tokens))


@pytest.fixture(scope="module")
def adapter(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    facts = Bundle.open(exported("fp32")).manifest.model
    return random_adapter(tmp_path_factory.mktemp("adapter") / "mine", facts, 6, seed=3)


@pytest.mark.parametrize(
    ("precision", "target", "stages", "kernels"),
    [
        ("fp32", "cpu", 2, "off"),
        ("fp32", "portable", 1, "off"),
        pytest.param("int8", "cpu", 2, "on", marks=pytest.mark.kernels),
    ],
)
def test_whatever_a_graph_is_made_of_it_takes_the_same_adapter(
    exported: Exported,
    adapter: Path,
    reference: Mapping[str, npt.NDArray[Any]],
    precision: str,
    target: str,
    stages: int,
    kernels: Any,
) -> None:
    tokens = reference["tokens"][:300]
    bundles = exported(precision), exported(precision, target, stages)
    found = []
    for bundle in bundles:
        model = sc2onnx.load(bundle, kernels=kernels, packed="off")
        model.load_adapter(adapter)
        found.append(logits(model, tokens, "mine"))
    tolerance = 0 if kernels == "on" else 1e-5
    assert np.abs(found[1] - found[0]).max() <= tolerance * np.abs(found[0]).max()


def test_in_half_precision_an_adapter_does_what_it_does_in_float32(
    exported: Exported, adapter: Path, reference: Mapping[str, npt.NDArray[Any]]
) -> None:
    """A graph for a GPU, on the CPU."""
    found = []
    for bundle in (exported("fp32"), exported("fp16", "cuda")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            model = sc2onnx.load(bundle)
        model.load_adapter(adapter)
        found.append(logits(model, reference["tokens"][:60], "mine"))
    assert np.abs(found[1] - found[0]).max() <= 2e-2 * np.abs(found[0]).max()


def test_bfloat16_is_rounded_to_the_nearest(exported: Exported) -> None:
    numbers = np.random.default_rng(8).normal(size=(16, 2)).astype(np.float32)
    bank = LaneBank(Bundle.open(exported("fp32")).manifest.model, "bfloat16")
    (pair,) = bank.prepared({(0, "mlp.c_fc"): (numbers, numbers.T)}).values()
    np.testing.assert_array_equal(pair[0].view(ml_dtypes.bfloat16), numbers.astype("bfloat16"))


def test_onnxruntimes_own_adapters_run_the_graph_of_other_runtimes(
    exported: Exported, adapter: Path, reference: Mapping[str, npt.NDArray[Any]]
) -> None:
    """The graph for onnxruntime-genai, with the adapter's file as onnxruntime takes it."""
    tokens = reference["tokens"][None, :200]
    bundle = exported("fp32", "genai")
    session = ort.InferenceSession(bundle / GRAPH, providers=["CPUExecutionProvider"])
    feeds: dict[str, Any] = {"input_ids": tokens, "attention_mask": np.ones_like(tokens)}
    for value in session.get_inputs():
        if value.name.startswith("past_key_values"):
            feeds[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
    read = ort.LoraAdapter()
    read.Load(str(adapter / MATRICES_FILE))
    options = ort.RunOptions()
    options.add_active_adapter(read)
    found = session.run(["logits"], feeds, options)[0][0]
    model = sc2onnx.load(exported("fp32"))
    model.load_adapter(adapter)
    expected = logits(model, tokens[0], "mine")
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    plain = session.run(["logits"], feeds)[0][0]
    with model.sequence() as sequence:
        assert np.abs(plain - np.asarray(sequence.append(tokens[0]))).max() <= 1e-4


def test_the_file_that_is_written_is_what_onnxruntime_writes(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    found: dict[str, npt.NDArray[Any]] = {
        "first": random.normal(size=(7, 3)).astype(np.float32),
        "second": random.normal(size=(3, 9)).astype(np.float16),
    }
    (tmp_path / "mine").write_bytes(onnx_adapter(found))
    read = ort.AdapterFormat.read_adapter(str(tmp_path / "mine"))
    values = read.get_parameters()
    assert {name: value.numpy().dtype for name, value in values.items()} == {
        name: each.dtype for name, each in found.items()
    }
    for name, each in found.items():
        np.testing.assert_array_equal(np.array(values[name].numpy()), each)


@pytest.fixture
def copy(exported: Exported, tmp_path: Path) -> Path:
    shutil.copytree(exported("fp32"), tmp_path / "copy", copy_function=os.link)
    return tmp_path / "copy"


def _default(name: str, value: npt.NDArray[Any]) -> Callable[[onnx.GraphProto], None]:
    def change(graph: onnx.GraphProto) -> None:
        (tensor,) = (each for each in graph.initializer if each.name == name)
        tensor.CopyFrom(numpy_helper.from_array(value, name))

    return change


def _extra(graph: onnx.GraphProto) -> None:
    last = next(node for node in graph.node if node.output[0] == "logits")
    last.output[0] = "before"
    graph.node.append(helper.make_node("Add", ["before", "before"], ["logits"]))


A = matrix_name(0, "self_attn.q_proj", "A")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_default(LANES, np.zeros((1, 1), np.float32)), "adapter_lanes by default is"),
        (_default(LANES, np.ones((1, 2), np.float32)), "adapter_lanes by default is"),
        (_default(A, np.ones((16, 1), np.float32)), f"the ranks of {A} by default is 1"),
        (_extra, "the number of operators"),
        (lambda graph: graph.input.pop(), "the input"),
        (lambda graph: graph.node.pop(), "the number of operators|no product"),
    ],
)
def test_a_graph_that_is_not_ours_is_refused(
    copy: Path, change: Callable[[onnx.GraphProto], object], told: str
) -> None:
    model = onnx.load(copy / GRAPH, load_external_data=False)
    change(model.graph)
    replace(copy, GRAPH, model.SerializeToString())
    with pytest.raises(BundleIntegrityError, match=told):
        Bundle.open(copy)


def test_a_bundle_of_earlier_versions_says_what_to_do(copy: Path, adapter: Path) -> None:
    edit(copy, lambda raw: raw["files"].pop(GRAPH))
    (copy / GRAPH).unlink()
    model = sc2onnx.load(copy)
    with pytest.raises(AdapterError, match="has no graph that takes adapters: export it again"):
        model.load_adapter(adapter)
    assert not model.adapters
    assert model.memory_footprint().adapters == 0
    assert model.generate("x = ", max_new_tokens=2).tokens


@pytest.fixture
def model(exported: Exported) -> sc2onnx.Model:
    return sc2onnx.load(exported("fp32"))


def test_without_an_adapter_the_usual_graph_is_run(model: sc2onnx.Model, adapter: Path) -> None:
    usual = model.session.graphs[0].inputs
    model.load_adapter(adapter)
    assert model.session.graphs[0].inputs - usual >= {LANES, A}
    model.drop_adapter("mine")
    assert model.session.graphs[0].inputs == usual
