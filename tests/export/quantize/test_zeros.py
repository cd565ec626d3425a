"""Blocks of zeros: exact, kept by calibration, and told of by tensor once the bundle is written."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sc2onnx.bundle.schemes import Scheme
from sc2onnx.cli.main import main
from sc2onnx.export import Calibration, export
from sc2onnx.export import weights as floats_room
from sc2onnx.export.plan import WeightPlan
from sc2onnx.export.quantize import products
from sc2onnx.export.quantize.codec import ZERO_SCALE, Quantised, quantise
from sc2onnx.export.quantize.corpus import LENGTH
from sc2onnx.export.quantize.moments import Moments
from sc2onnx.export.quantize.recipe import Recipe
from sc2onnx.export.quantize.rounding import round_jointly
from tests.export.quantize.definition import matrices

Make = Callable[..., Path]
Tensors = dict[str, npt.NDArray[Any]]

EMBEDDING, HEAD, LAYERS = "model.embed_tokens.weight", "lm_head.weight", "model.layers"
SIZES = {"hidden_size": 64, "intermediate_size": 192}
"""The embedding and the head in blocks of 32, the layers in blocks of 64 (precision int8)."""

both_targets = pytest.mark.parametrize("target", ["cpu", "portable"])


def zeroed(*places: tuple[str, Any]) -> Callable[[Tensors], None]:
    """``(name, index)``: what of which tensor becomes zeros."""

    def edit(tensors: Tensors) -> None:
        for name, index in places:
            tensors[name][index] = 0

    return edit


def told(*arguments: Any, **options: Any) -> list[str]:
    """What an export warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        export(*arguments, **options)
    assert all(warning.category is UserWarning for warning in caught)
    # whoever called export
    assert {Path(warning.filename).name for warning in caught} <= {"test_zeros.py"}
    return [str(warning.message) for warning in caught]


def message(named: str, count: int) -> str:
    return (
        f"blocks of zeros in {named}, {count} in all: they stay zeros; check the checkpoint, "
        "unless it was pruned or has tokens that are never used"
    )


@both_targets
def test_weights_without_blocks_of_zeros_are_not_worth_a_word(
    make_checkpoint: Make, tmp_path: Path, target: str
) -> None:
    """Single zeros and zeros that two blocks share are none, nor are biases and norms."""
    names = [f"{LAYERS}.0.mlp.c_fc", f"{LAYERS}.1.self_attn.k_proj"]
    places = [(f"{name}.weight", (slice(None), slice(0, 63))) for name in names] + [
        (f"{name}.bias", ...) for name in names
    ]
    checkpoint = make_checkpoint(
        SIZES,
        edit=zeroed(
            *places,
            (EMBEDDING, (slice(None), slice(1, 63))),
            (f"{LAYERS}.0.input_layernorm.weight", ...),
        ),
    )
    assert told(checkpoint, tmp_path / "bundle", precision="int8", target=target) == []


@both_targets
def test_the_tensors_are_named_and_the_blocks_counted(
    make_checkpoint: Make, tmp_path: Path, target: str
) -> None:
    """Two rows of padding tokens have two blocks each; the tied head is the same bytes."""
    places: list[tuple[str, Any]] = [
        (EMBEDDING, [3, 31]),
        (f"{LAYERS}.0.self_attn.v_proj.weight", -1),
        (f"{LAYERS}.1.self_attn.k_proj.weight", [0, 5]),
        (f"{LAYERS}.1.mlp.c_proj.weight", (7, slice(64, 128))),
    ]
    checkpoint = make_checkpoint(SIZES, edit=zeroed(*places))
    assert told(checkpoint, tmp_path / "bundle", precision="int8", target=target) == [
        message("tensors " + ", ".join(n for n, _ in places), 8)
    ]
    found = matrices(tmp_path / "bundle")
    kv = np.split(found[f"{LAYERS}.1.self_attn.qkv_proj"].weights, [64, 96])[1]
    assert not found["model.embed_tokens"].weights[[3, 31]].any()
    assert found["model.embed_tokens"].weights.any(axis=1).sum() == 30
    assert not kv[[0, 5]].any()
    assert kv.any(axis=1).sum() == 30
    assert not found[f"{LAYERS}.1.mlp.c_proj"].weights[7, 64:128].any()


@both_targets
@pytest.mark.parametrize(
    ("part", "blocks"),
    [
        ("self_attn.q_proj", 64),
        ("self_attn.k_proj", 32),
        ("self_attn.v_proj", 32),
        ("self_attn.o_proj", 64),
        ("mlp.c_fc", 192),
        ("mlp.c_proj", 192),
    ],
)
def test_a_whole_matrix_of_zeros(
    make_checkpoint: Make, tmp_path: Path, part: str, blocks: int, target: str
) -> None:
    name = f"{LAYERS}.1.{part}.weight"
    checkpoint = make_checkpoint(SIZES, edit=zeroed((name, ...)))
    assert told(checkpoint, tmp_path / "bundle", precision="int8", target=target) == [
        message(f"tensor {name}", blocks)
    ]


@both_targets
def test_a_separate_head_is_told_apart_from_the_embedding(
    make_checkpoint: Make, tmp_path: Path, target: str
) -> None:
    checkpoint = make_checkpoint({**SIZES, "tie_word_embeddings": False}, edit=zeroed((HEAD, 4)))
    assert told(checkpoint, tmp_path / "bundle", precision="int8", target=target) == [
        message(f"tensor {HEAD}", 2)
    ]


@both_targets
def test_of_many_tensors_the_first_are_named(
    make_checkpoint: Make, tmp_path: Path, target: str
) -> None:
    """In the order of the bundle, whatever the rows that are read at once."""
    names = [
        f"{LAYERS}.{layer}.{part}.weight"
        for layer in range(2)
        for part in ("self_attn.q_proj", "self_attn.v_proj", "mlp.c_fc")
    ]
    checkpoint = make_checkpoint(SIZES, edit=zeroed(*((name, 9) for name in names)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(floats_room, "CHUNK_BYTES", 1800)
        assert told(checkpoint, tmp_path / "bundle", precision="int8", target=target) == [
            message(f"6 tensors ({', '.join(names[:4])}, ...)", 6)
        ]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_only_blocks_are_counted(make_checkpoint: Make, tmp_path: Path, precision: str) -> None:
    checkpoint = make_checkpoint(SIZES, edit=zeroed((EMBEDDING, 0)))
    assert len(told(checkpoint, tmp_path / "bundle", precision=precision)) == (precision == "int8")


def test_an_export_that_fails_says_nothing_of_zeros(make_checkpoint: Make, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(SIZES, edit=zeroed((EMBEDDING, 0)))
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(OSError, match="exists"):
            export(checkpoint, tmp_path / "bundle", precision="int8")


def test_where_warnings_are_errors_nothing_is_left(make_checkpoint: Make, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(SIZES, edit=zeroed((EMBEDDING, 0)))
    (tmp_path / "place").mkdir()
    with (
        warnings.catch_warnings(action="error", category=UserWarning),
        pytest.raises(UserWarning, match="blocks of zeros"),
    ):
        export(checkpoint, tmp_path / "place" / "bundle", precision="int8")
    assert list((tmp_path / "place").iterdir()) == []


def test_a_plan_has_no_doubts_before_anything_is_written() -> None:
    zeros = {"a": 0, "b": 0}
    plan = WeightPlan(None, {}, None, zeros)  # type: ignore[arg-type]
    assert plan.doubts() is None
    zeros["b"] = 2
    assert plan.doubts() == message("tensor b", 2)


def test_the_command_line_says_it_in_one_line(
    make_checkpoint: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = make_checkpoint(SIZES, edit=zeroed((EMBEDDING, 0)))
    assert main(["export", str(checkpoint), str(tmp_path / "bundle"), "--precision", "int8"]) == 0
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert lines[-2] == f"warning: {message(f'tensor {EMBEDDING}', 2)}"
    assert sum("warning" in line.lower() for line in lines) == 1
    assert captured.out.count("\n") == 1


def test_calibration_keeps_them_and_what_it_left_in_the_cache_still_tells(
    make_checkpoint: Make, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside a row, where the rest of the row has errors to be made up for; the second export takes
    all of it from the cache.
    """
    fc, v = f"{LAYERS}.0.mlp.c_fc.weight", f"{LAYERS}.1.self_attn.v_proj.weight"
    source = make_checkpoint(
        {**SIZES, "vocab_size": 4096}, edit=zeroed((fc, (slice(5, 9), slice(32, 64))), (v, 2))
    )
    shutil.copy(checkpoint / "tokenizer.json", source / "tokenizer.json")
    recipe = Recipe("small", body=Scheme(4, 32), head=Scheme(8, 32), calibrate=True)
    (tmp_path / "small.json").write_text(recipe.to_json())
    options: dict[str, Any] = {
        "precision": str(tmp_path / "small.json"),
        "calibration": Calibration(tokens=LENGTH),
    }
    rounded = list[tuple[int, ...]]()

    def counted(weight: npt.NDArray[np.float32], *rest: Any) -> Quantised:
        rounded.append(weight.shape)
        return round_jointly(weight, *rest)

    monkeypatch.setattr(products, "round_jointly", counted)
    for target in ("cpu", "portable"):
        assert told(source, tmp_path / target, target=target, **options) == [
            message(f"tensors {fc}, {v}", 6)
        ]
        assert len(rounded) == 8
        matrix = matrices(tmp_path / target)[fc.removesuffix(".weight")]
        assert not matrix.weights[5:9, 32:].any()
        assert matrix.weights[5:9, :32].any(axis=1).all()


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("scheme", [Scheme(4, 32), Scheme(8, 16)], ids=str)
def test_rounding_jointly_leaves_zeros_alone(scheme: Scheme, size: float) -> None:
    """However large the errors beside them are; and takes no block for zeros that is not."""
    random = np.random.default_rng(0)
    weight = (size * random.standard_normal((48, 128))).astype(np.float32)
    blocks = weight.reshape(48, -1, scheme.block_size)
    zeros = random.random(blocks.shape[:2]) < 0.3
    zeros[3], zeros[4] = True, False
    blocks[zeros] = 0
    ours = (
        random.standard_normal((400, 32)) @ random.standard_normal((32, 128))
        + 0.1 * random.standard_normal((400, 128))
    ).astype(np.float32)
    original = ours + np.float32(0.3) * random.standard_normal(ours.shape).astype(np.float32)
    moments = Moments(weight, centred=True)
    moments.add(original, ours)
    found = round_jointly(weight, moments, scheme)
    np.testing.assert_array_equal(found.zeros, zeros)
    np.testing.assert_array_equal(quantise(weight, scheme).zeros, zeros)
    assert (found.scales[zeros] == ZERO_SCALE).all()
    assert np.abs(found.scales[~zeros]).max() < size


def test_a_matrix_of_zeros_is_calibrated_to_zeros() -> None:
    weight, ours = (
        np.zeros((24, 64), dtype=np.float32),
        np.random.default_rng(0).standard_normal((100, 64)).astype(np.float32),
    )
    moments = Moments(weight, centred=False)
    moments.add(ours + 1, ours)
    found = round_jointly(weight, moments, Scheme(4, 32))
    assert found.zeros.all()
    assert (found.scales == ZERO_SCALE).all()
