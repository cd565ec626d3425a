"""What is said before an export is what the export then does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from sc2onnx.bundle.directories import cache_directory
from sc2onnx.bundle.targets import OWN_TARGETS
from sc2onnx.errors import RequestError
from sc2onnx.export import Calibration, effort, export
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.effort import calibration_peak, calibration_seconds
from sc2onnx.export.estimate import Estimate, estimate, facts, plan_ahead, variants
from sc2onnx.export.precision import PRECISIONS, Variant
from sc2onnx.export.shapes import SHAPES
from sc2onnx.export.weights import checkpoint_shapes

VARIANTS = variants()
WIDE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "tie_word_embeddings": False,
    "use_bias": False,
    "sliding_window": None,
}


def read(directory: Path) -> Starcoder2Config:
    return Starcoder2Config.from_dict(json.loads((directory / "config.json").read_text()))


def ahead_of(config: Starcoder2Config, variant: Variant) -> Estimate:
    return estimate(plan_ahead(config, variant))


def check(directory: Path, out: Path, variant: Variant, calibration: Calibration) -> None:
    """The estimate of a checkpoint against its export."""
    ahead = ahead_of(read(directory), variant)
    manifest = export(
        directory, out, precision=variant.precision, target=variant.target, calibration=calibration
    )
    assert (ahead.precision, ahead.target, ahead.cache) == (
        manifest.precision,
        manifest.target,
        manifest.cache,
    )
    assert facts(read(directory)) == manifest.model
    if ahead.exact:
        assert ahead.weights == manifest.weight_bytes
    else:
        assert manifest.weight_bytes <= ahead.weights < 1.1 * manifest.weight_bytes
    written = sum(path.stat().st_size for path in out.iterdir())
    assert written <= ahead.disk < written * 1.1 + 40e6


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_mini_checkpoint_takes_what_was_estimated(
    checkpoint: Path, tmp_path: Path, variant: Variant
) -> None:
    check(checkpoint, tmp_path / "bundle", variant, Calibration(wanted=False))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_checkpoint_with_a_head_of_its_own_and_without_biases_too(
    make_checkpoint: Callable[..., Path], tmp_path: Path, variant: Variant
) -> None:
    check(make_checkpoint(WIDE), tmp_path / "bundle", variant, Calibration(wanted=False))


@pytest.mark.parametrize(
    "variant", [Variant("int4"), Variant("int4-fast"), Variant("int4", "cuda")], ids=str
)
def test_calibration_keeps_and_lifts_no_more_than_was_estimated(
    checkpoint: Path, make_checkpoint: Callable[..., Path], tmp_path: Path, variant: Variant
) -> None:
    """On a GPU scales take half the bytes, but calibration keeps them in float32."""
    made = make_checkpoint(
        {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 4096}, tokenizer=False
    )
    shutil.copy(checkpoint / "tokenizer.json", made)
    check(made, tmp_path / "bundle", variant, Calibration(tokens=512))
    kept = sum(path.stat().st_size for path in cache_directory().rglob("*.safetensors"))
    plan = plan_ahead(read(made), variant)
    assert 0.8 * kept <= estimate(plan, Calibration(tokens=512)).calibration_cache <= 1.2 * kept


def test_an_estimate_is_of_the_calibration_that_is_wanted() -> None:
    plan = plan_ahead(Starcoder2Config.from_dict(SHAPES["3b"]), Variant("int4"))
    whole, short, none = (
        estimate(plan, wanted)
        for wanted in (None, Calibration(tokens=8192), Calibration(wanted=False))
    )
    assert whole.calibration_seconds > short.calibration_seconds > none.calibration_seconds == 0
    assert whole.memory > short.memory > none.memory
    assert (whole.weights, whole.calibration_cache) == (short.weights, short.calibration_cache)
    assert (none.exact, none.calibration_cache) == (True, 0)
    assert none.weights < whole.weights


def test_nothing_is_packed_where_the_kernels_lack_the_activation(settings: dict[str, Any]) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 512}
    packed = {}
    for activation in ("gelu_pytorch_tanh", "gelu"):
        config = Starcoder2Config.from_dict({**settings, **sizes, "hidden_act": activation})
        packed[activation] = ahead_of(config, Variant("int8")).packed
    assert packed["gelu"] == 0
    assert packed["gelu_pytorch_tanh"] > 0


def test_everything_that_can_be_exported_is_estimated() -> None:
    assert {variant.precision for variant in VARIANTS} == set(PRECISIONS)
    assert {variant.target for variant in VARIANTS} == {target.name for target in OWN_TARGETS}
    assert len(VARIANTS) == len(set(VARIANTS)) == 12


def test_a_lift_counts_as_bits_of_the_layers_and_of_nothing_else(checkpoint: Path) -> None:
    """Mini: 6 layers of query and output 256 x 256, key and value 128 x 256, and
    two products of 1024 x 256.
    """
    values = 6 * 256 * (2 * 256 + 2 * 128 + 2 * 1024)
    body = {name: ahead_of(read(checkpoint), Variant(name)) for name in ("int8", "int4")}
    head = 4096 * 256 * (16 / 32 - 16 / 128) / 8  # scales of the head: in blocks of 32 and of 128
    others = body["int8"].weights - head - values * (8 + 16 / 64) / 8
    assert body["int4"].weights == others + int(values * 4.665 / 8)
    gradients = 2 * 4096 * 6 * (512 + 256 + 1024 + 256)  # of 4,096 tokens, in half precision
    lifts = int(
        values * (4.665 - 4.25) / 8
    )  # beside blocks of 64, whose scales are kept as float32
    assert body["int4"].calibration_cache == values * (4 + 32 / 64) / 8 + lifts + gradients
    assert (body["int8"].calibration_cache, body["int8"].exact, body["int4"].exact) == (
        0,
        True,
        False,
    )


@pytest.mark.parametrize(
    ("shape", "parameters", "gigabytes"),
    [
        (
            "3b",
            3_030_371_328,
            {
                "fp32": 12.13,
                "fp16": 6.07,
                "bf16": 6.07,
                "int8": 3.15,
                "int4": 1.85,
                "int4-fast": 1.70,
            },
        ),
        (
            "7b",
            7_173_923_840,
            {"fp32": 28.71, "fp16": 14.36, "int8": 7.42, "int4": 4.30, "int4-fast": 3.94},
        ),
        (
            "15b",
            15_957_889_024,
            {"fp32": 63.84, "fp16": 31.93, "int8": 16.5, "int4": 9.60, "int4-fast": 8.80},
        ),
    ],
)
def test_the_published_checkpoints(
    shape: str, parameters: int, gigabytes: Mapping[str, float]
) -> None:
    config = Starcoder2Config.from_dict(SHAPES[shape])
    assert facts(config).parameters == parameters
    for precision, most in gigabytes.items():
        ahead = ahead_of(
            config, Variant(precision, "cuda" if precision in ("fp16", "bf16") else "cpu")
        )
        assert 0.995 * most < ahead.weights / 1e9 <= most, precision


def test_a_recipe_whose_blocks_do_not_fit_is_refused_as_export_refuses_it(
    settings: dict[str, Any], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(RequestError) as ahead:
        ahead_of(Starcoder2Config.from_dict(settings), Variant("int8"))
    with pytest.raises(RequestError) as done:
        export(tiny_checkpoint, tmp_path / "bundle", precision="int8")
    assert str(ahead.value) == str(done.value)


def test_calibration_holds_activations_and_a_perceptron() -> None:
    config = Starcoder2Config.from_dict(SHAPES["3b"])
    activations = 4 * 3072 * (3 * 57_344 + 4 * 20_480)
    assert calibration_peak(config) == activations + 301_989_888 + 550_000_000 < 4e9
    assert calibration_peak(config, 1024) == calibration_peak(config) - activations + 88_080_384
    assert ahead_of(config, Variant("int4")).memory == calibration_peak(config)
    assert ahead_of(config, Variant("int8")).memory < 0.5e9


@pytest.fixture(scope="module")
def tall_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of zeros, with an embedding of 67 million values: several chunks, and large beside the
    interpreter when it is transposed.
    """
    directory = tmp_path_factory.mktemp("tall")
    settings = {
        **SHAPES["3b"],
        "hidden_size": 128,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 1 << 19,
    }
    (directory / "config.json").write_text(json.dumps(settings))
    shapes = checkpoint_shapes(Starcoder2Config.from_dict(settings))
    save_file(
        {name: np.zeros(shape, dtype=ml_dtypes.bfloat16) for name, shape in shapes.items()},
        directory / "model.safetensors",
    )
    return directory


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind", ["mini", "tall"])
@pytest.mark.parametrize(
    "variant",
    [Variant("fp32"), Variant("bf16", "cuda"), Variant("int8"), Variant("int8", "portable")],
    ids=str,
)
def test_peak_memory_is_about_what_was_estimated(
    checkpoint: Path, tall_checkpoint: Path, tmp_path: Path, kind: str, variant: Variant
) -> None:
    source = {"mini": checkpoint, "tall": tall_checkpoint}[kind]
    code = (
        "import sys; from sc2onnx.export import export; export(*sys.argv[1:3], "
        "precision=sys.argv[3], target=sys.argv[4])\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if "
        "line.startswith('VmHWM')))"
    )
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        code,
        str(source),
        str(tmp_path / "bundle"),
        variant.precision,
        variant.target,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert 0.75 < int(done.stdout) * 1024 / ahead_of(read(source), variant).memory < 1.15


def test_the_largest_matrix_counts_for_the_portable_target_alone() -> None:
    config = Starcoder2Config.from_dict(SHAPES["3b"])
    larger = replace(config, vocab_size=2 * config.vocab_size)
    added = larger.hidden_size * config.vocab_size
    grown = {
        target: ahead_of(larger, Variant("int8", target)).memory
        - ahead_of(config, Variant("int8", target)).memory
        for target in ("cpu", "portable")
    }
    assert grown["cpu"] < added / 4 < 4 * added < grown["portable"]


def test_a_calibration_of_the_3b_shape_takes_what_its_first_layers_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """docs/measurements.md: the default text, where products have 150 * 10^9 operations a second;
    half of it where they have twice as many.
    """
    shape = Starcoder2Config.from_dict(SHAPES["3b"])
    monkeypatch.setattr(effort, "product_speed", lambda: 150e9)
    assert 50 < calibration_seconds(shape, 8192) / 60 < 80
    assert 125 < (slow := calibration_seconds(shape)) / 60 < 150
    monkeypatch.setattr(effort, "product_speed", lambda: 300e9)
    assert calibration_seconds(shape) == pytest.approx(slow / 2)
    assert calibration_seconds(Starcoder2Config.from_dict(SHAPES["15b"])) > 5 * calibration_seconds(
        shape
    )
