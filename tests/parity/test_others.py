"""Bundles for other runtimes against torch, driven as these do it; what they must put up with."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest

import sc2onnx
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import BundleError, RequestError
from sc2onnx.export import export
from sc2onnx.export.graph import growing
from sc2onnx.export.graph.attention import Step
from sc2onnx.export.graph.ops import Recorder
from sc2onnx.verify import verify
from sc2onnx.verify.reference import Reference
from tests.parity.mistakes import gqa_window_off_by_one, let_in
from tests.parity.shapes import SHAPES, Shape, make

NAMES = (
    "window of 1",
    "window of 7",
    "no biases, separate head, no window",
    "head size 128",
    "stored as fp16",
    "wide epsilon, one layer",
)
CHOSEN = [shape for shape in SHAPES if shape.name in NAMES]
SMALL = next(shape for shape in SHAPES if shape.name == "window of 7")
TARGETS = ("genai", "optimum")

pytestmark = pytest.mark.filterwarnings("ignore:.*tokenizer.json:UserWarning")
every_target = pytest.mark.parametrize("target", TARGETS)


def exported(
    shape: Shape, target: str, directory: Path, precision: str = "fp32"
) -> tuple[Path, Path]:
    """Checkpoint and bundle."""
    checkpoint = make(shape, directory / "checkpoint")
    export(checkpoint, directory / "bundle", target=target, precision=precision)
    return checkpoint, directory / "bundle"


@every_target
@pytest.mark.parametrize("shape", CHOSEN, ids=str)
def test_every_length_split_and_rewind(shape: Shape, target: str, tmp_path: Path) -> None:
    checkpoint, bundle = exported(shape, target, tmp_path)
    summary = verify(bundle, checkpoint, greedy_tokens=64).summary
    assert summary.passed
    assert (summary.greedy_match, summary.tolerance) == (64, 1e-5)
    assert Manifest.read(bundle).verification == summary


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_genai_in_half_precision(precision: str, tmp_path: Path) -> None:
    checkpoint, bundle = exported(SMALL, "genai", tmp_path, precision)
    assert verify(bundle, checkpoint, greedy_tokens=16).summary.passed


def test_the_window_of_what_grows_is_compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = growing.masked_step

    def wrong(op: Recorder, config: Any, *arguments: Any) -> Step:
        return real(
            op, dataclasses.replace(config, sliding_window=config.sliding_window + 1), *arguments
        )

    let_in(monkeypatch)
    monkeypatch.setattr(growing, "masked_step", wrong)
    checkpoint, bundle = exported(SMALL, "optimum", tmp_path)
    assert not verify(bundle, checkpoint, greedy_tokens=0).summary.passed


def test_the_window_of_genai_is_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gqa_window_off_by_one(monkeypatch)
    checkpoint, bundle = exported(SMALL, "genai", tmp_path)
    assert not verify(bundle, checkpoint, greedy_tokens=0).summary.passed


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return exported(SMALL, "optimum", tmp_path_factory.mktemp("padded"))


def run(
    bundle: Path, tokens: npt.NDArray[np.int64], mask: npt.NDArray[np.int64], heads: int
) -> list[npt.NDArray[Any]]:
    """One step from an empty cache of so many heads."""
    facts = Manifest.read(bundle).model
    empty = np.empty((len(tokens), heads, 0, facts.head_dim), dtype=np.float32)
    session = ort.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    past = {
        value.name: empty
        for value in session.get_inputs()
        if value.name.startswith("past_key_values.")
    }
    return list(session.run(None, {"input_ids": tokens, "attention_mask": mask, **past}))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(padded: tuple[Path, Path], side: str) -> None:
    """Of rows of 20 and 9 tokens, past the window of 7; and no padding token makes
    a logit that is no number.
    """
    checkpoint, bundle = padded
    heads = Manifest.read(bundle).model.num_kv_heads
    tokens = np.random.default_rng(0).integers(0, 97, (2, 20))
    mask = np.ones_like(tokens)
    unused, used = (slice(0, 11), slice(11, 20)) if side == "left" else (slice(9, 20), slice(0, 9))
    mask[1, unused] = 0
    logits = run(bundle, tokens, mask, heads)[0]
    assert np.isfinite(logits).all()
    with Reference(checkpoint) as reference:
        whole, short = reference.logits(tokens[:1])[0], reference.logits(tokens[1:, used])[0]
    for found, expected in ((logits[0], whole), (logits[1, used], short)):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(whole).max())


def test_an_empty_cache_may_have_a_head_for_each_query_head(padded: tuple[Path, Path]) -> None:
    """As optimum makes it for architectures that it does not know; what comes
    back has the right number.
    """
    _, bundle = padded
    facts = Manifest.read(bundle).model
    assert facts.num_heads != facts.num_kv_heads
    tokens = np.arange(10)[None]
    right, wrong = (
        run(bundle, tokens, np.ones_like(tokens), heads)
        for heads in (facts.num_kv_heads, facts.num_heads)
    )
    assert all(np.array_equal(a, b) for a, b in zip(right, wrong, strict=True))
    assert right[1].shape == (1, facts.num_kv_heads, 10, facts.head_dim)


def test_standard_operators_only_where_floats_grow(padded: tuple[Path, Path]) -> None:
    model = onnx.load(padded[1] / "model.onnx", load_external_data=False)
    onnx.checker.check_model(padded[1] / "model.onnx", full_check=True)
    assert {opset.domain for opset in model.opset_import} == {""}
    assert [value.name for value in model.graph.input][:2] == ["input_ids", "attention_mask"]


@every_target
def test_our_runtime_says_who_runs_it(target: str, tmp_path: Path) -> None:
    _, bundle = exported(SMALL, target, tmp_path)
    with pytest.raises(
        BundleError,
        match=(
            f"for target '{target}', which .* runs: give it to that, or export the "
            "checkpoint for target 'cpu'"
        ),
    ):
        sc2onnx.load(bundle)


@every_target
def test_stages_are_for_our_runtime(target: str, tmp_path: Path) -> None:
    with pytest.raises(
        RequestError,
        match=(
            f"stages is 2 for target '{target}', which takes a model of one "
            "graph: leave --stages out"
        ),
    ):
        export(make(SMALL, tmp_path / "checkpoint"), tmp_path / "bundle", target=target, stages=2)


@pytest.mark.parametrize(
    ("name", "window"), [("window of 7", 7), ("no biases, separate head, no window", None)]
)
def test_what_genai_is_told(name: str, window: int | None, tmp_path: Path) -> None:
    _, bundle = exported(next(shape for shape in SHAPES if shape.name == name), "genai", tmp_path)
    facts, config = (
        Manifest.read(bundle).model,
        json.loads((bundle / "genai_config.json").read_text()),
    )
    decoder = config["model"]["decoder"]
    assert (config["model"]["type"], config["model"]["vocab_size"], decoder["head_size"]) == (
        "decoder",
        facts.vocab_size,
        facts.head_dim,
    )
    assert decoder["session_options"]["provider_options"] == []
    said = decoder.get("sliding_window")
    assert (said and said["window_size"]) == window
    if said:  # the cache keeps every position: the window is the attention's own
        assert (said["slide_key_value_cache"], said["slide_inputs"]) == (False, False)
        assert said["cache_slack"] + window == facts.context_length
    assert "genai_config.json" in Manifest.read(bundle).files


def test_genai_in_half_precision_is_for_a_gpu(tmp_path: Path) -> None:
    _, bundle = exported(SMALL, "genai", tmp_path, "fp16")
    decoder = json.loads((bundle / "genai_config.json").read_text())["model"]["decoder"]
    assert decoder["session_options"]["provider_options"] == [{"cuda": {}}]


def test_what_optimum_wrote_is_verified_too(
    tmp_path: Path, make_foreign: Callable[[Path], Path]
) -> None:
    """A graph and a configuration, no manifest: nothing is recorded, and nothing is left behind."""
    checkpoint, bundle = exported(SMALL, "optimum", tmp_path)
    directory = make_foreign(bundle)
    before = sorted(directory.iterdir())
    assert verify(directory, checkpoint, greedy_tokens=16).summary.passed
    assert sorted(directory.iterdir()) == before


def test_a_graph_without_a_cache_is_refused(
    tmp_path: Path, make_foreign: Callable[[Path], Path]
) -> None:
    checkpoint = make(SMALL, tmp_path / "checkpoint")
    export(checkpoint, tmp_path / "bundle")
    with pytest.raises(
        BundleError,
        match=(
            "has no input attention_mask, expected a decoder with a cache: "
            "export it with `optimum-cli"
        ),
    ):
        verify(make_foreign(tmp_path / "bundle"), checkpoint)


@pytest.fixture
def make_foreign() -> Callable[[Path], Path]:
    def strip(bundle: Path) -> Path:
        for name in ("sc2onnx.json", "README.md"):
            (bundle / name).unlink()
        return bundle

    return strip
