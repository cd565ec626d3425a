"""Calibrated bundles from end to end: nearer to the original, told of in the manifest, resumed, and
refused before any work is lost.
"""

from __future__ import annotations

import heapq
import json
import shutil
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sc2onnx.bundle.directories import cache_directory
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.quantization import Quantization
from sc2onnx.bundle.schemes import Scheme
from sc2onnx.cli.main import main
from sc2onnx.errors import CheckpointError, DiskSpaceError, OutputError, RequestError, TensorError
from sc2onnx.evaluate import Settings, evaluate
from sc2onnx.export import Calibration, export
from sc2onnx.export.progress import Silent
from sc2onnx.export.quantize import calibrate, sensitivity
from sc2onnx.export.quantize.corpus import DEFAULT_TOKENS, LENGTH

TOKENS = 4096
CALIBRATED = Calibration(tokens=TOKENS)
NEAREST = Calibration(False)
QUICK = Calibration(tokens=LENGTH)
HELD_BACK = (textwrap.__file__, heapq.__file__)

LAYERS, PRODUCTS = 2, 8
"""Of the checkpoint that is cut short."""

Contents = Callable[[Path], dict[str, bytes | None]]


class Interrupted(Silent):
    """Once so many products are rounded."""

    def __init__(self, products: int) -> None:
        self.left, self.rounding = products, False

    def stage(self, text: str, total: int = 0) -> None:
        self.rounding = text.startswith("rounding")

    def advance(self, nbytes: int) -> None:
        self.left -= self.rounding
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def short(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mini checkpoint's first layers: enough where quality does not matter. Not to be written
    to.
    """
    from safetensors.numpy import load_file, save_file

    made = Path(shutil.copytree(checkpoint, tmp_path_factory.mktemp("short") / "checkpoint"))
    settings = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps({**settings, "num_hidden_layers": LAYERS}))
    weights = load_file(made / "model.safetensors")
    beyond = tuple(f"model.layers.{n}." for n in range(LAYERS, settings["num_hidden_layers"]))
    kept = {name: array for name, array in weights.items() if not name.startswith(beyond)}
    save_file(kept, made / "model.safetensors")
    return made


@pytest.fixture(scope="module")
def bundles(
    checkpoint: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Of the mini model, by name. Not to be written to."""
    directory = tmp_path_factory.mktemp("calibrated")
    for precision in ("int4", "int4-fast"):
        for how, calibration in (("calibrated", CALIBRATED), ("nearest", NEAREST)):
            export(
                checkpoint,
                directory / f"{precision} {how}",
                precision=precision,
                calibration=calibration,
            )
    return {path.name: path for path in directory.iterdir()}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Products that are rounded from now on."""
    names = list[str]()
    original = calibrate.CalibrationRun._round

    def count(self: Any, name: str, *others: Any) -> Any:
        names.append(name)
        return original(self, name, *others)

    monkeypatch.setattr(calibrate.CalibrationRun, "_round", count)
    return names


def weights(bundle: Path) -> bytes:
    return (bundle / "model.onnx.data").read_bytes()


def quantization(bundle: Path) -> Quantization:
    found = Manifest.read(bundle).quantization
    assert found is not None
    return found


def test_calibrated_bundles_are_nearer_to_the_original(
    bundles: dict[str, Path], bundle: Path
) -> None:
    """On text that the shipped corpus does not have.
    Lifting what is sensitive helps by itself, and with calibration more.
    """
    names = ["int4 calibrated", "int4-fast calibrated", "int4 nearest", "int4-fast nearest"]
    settings = Settings(length=512, max_tokens=2048)
    first, *rest = (bundles[name] for name in names)
    scores = evaluate(first, HELD_BACK, also=rest, against=bundle, settings=settings).scores
    found = {}
    for name, score in zip(names, scores, strict=True):
        assert score.difference is not None
        found[name] = score.difference.kl_divergence
    assert 0 < found["int4-fast calibrated"] < 0.7 * found["int4-fast nearest"]
    assert 0 < found["int4 calibrated"] < 0.7 * found["int4 nearest"]
    assert found["int4 calibrated"] < found["int4-fast calibrated"]


def test_the_manifest_says_what_was_done(bundles: dict[str, Path]) -> None:
    fast, nearest, lifted = (
        quantization(bundles[name])
        for name in ("int4-fast calibrated", "int4-fast nearest", "int4 calibrated")
    )
    assert (fast.rounding, nearest.rounding, lifted.rounding) == (
        "calibrated",
        "nearest",
        "calibrated",
    )
    assert fast.calibration is not None
    assert fast.calibration.startswith(f"{TOKENS} tokens of code shipped with sc2onnx (SHA-256 ")
    assert nearest.calibration is None
    assert nearest.body_bits == 4.125 < fast.body_bits <= 4.25
    assert set(nearest.schemes.values()) == {Scheme(4, 128), Scheme(8, 128)}
    assert set(fast.schemes.values()) == {Scheme(4, 128), Scheme(8, 128), Scheme(8, 256)}
    layers = [scheme for name, scheme in lifted.schemes.items() if name.startswith("model.layers.")]
    assert len(layers) == 24
    assert 0 < layers.count(Scheme(8, 256)) < 8
    assert 4.25 < lifted.body_bits <= 4.665
    assert set(quantization(bundles["int4 nearest"]).schemes.values()) == {
        Scheme(4, 64),
        Scheme(8, 128),
    }


def test_the_portable_form_holds_the_same_numbers(
    short: Path, tmp_path: Path, contents: Contents, counted: list[str]
) -> None:
    """And takes them from the store, in whatever layout they are written."""
    export(short, tmp_path / "cpu", precision="int4-fast", calibration=QUICK)
    assert len(counted) == PRODUCTS
    export(
        short,
        tmp_path / "portable",
        precision="int4-fast",
        target="portable",
        calibration=QUICK,
    )
    assert len(counted) == PRODUCTS
    settings = Settings(length=64, max_tokens=128, kernels="off")  # which round in another order
    report = evaluate(
        tmp_path / "portable", HELD_BACK[:1], against=tmp_path / "cpu", settings=settings
    )
    assert report.scores[0].difference is not None
    assert report.scores[0].difference.kl_divergence < 1e-3


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interrupted_calibration_leaves_the_output_alone_and_is_resumed(
    short: Path,
    bundle: Path,
    place: Path,
    contents: Contents,
    counted: list[str],
    overwrite: bool,
) -> None:
    if overwrite:
        shutil.copytree(bundle, place / "bundle")
    before = contents(place)
    with pytest.raises(KeyboardInterrupt):
        export(
            short,
            place / "bundle",
            precision="int4-fast",
            calibration=QUICK,
            overwrite=overwrite,
            progress=Interrupted(3),
        )
    assert contents(place) == before
    assert len(counted) == 3
    export(short, place / "bundle", precision="int4-fast", calibration=QUICK, overwrite=overwrite)
    assert len(counted) == PRODUCTS
    assert [path.name for path in place.iterdir()] == ["bundle"]
    shutil.rmtree(cache_directory())
    export(short, place / "at once", precision="int4-fast", calibration=QUICK)
    assert len(counted) == 2 * PRODUCTS
    for file in ("model.onnx", "model.onnx.data"):
        assert (place / "bundle" / file).read_bytes() == (place / "at once" / file).read_bytes()


def test_sensitivities_are_measured_once(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: list[str]
) -> None:
    export(short, tmp_path / "first", precision="int4", calibration=QUICK)
    monkeypatch.setattr(sensitivity, "measure", lambda *_: pytest.fail("measured again"))
    export(short, tmp_path / "second", precision="int4", calibration=QUICK)
    assert weights(tmp_path / "first") == weights(tmp_path / "second")
    assert len(counted) == PRODUCTS


@pytest.mark.parametrize("product", ["layers.0.mlp.c_fc", "layers.1.self_attn.o_proj"])
def test_a_product_whose_rounding_is_damaged_is_rounded_for_what_the_model_minds_again(
    short: Path, tmp_path: Path, counted: list[str], product: str
) -> None:
    """Its gradients too may be lost meanwhile."""
    export(short, tmp_path / "first", precision="int4", calibration=QUICK)
    (calibration,) = (cache_directory() / "calibration").glob("*/")
    (calibration / f"model.{product}.safetensors").write_bytes(b"damaged")
    (calibration / f"model.{product}.gradients.safetensors").unlink()
    export(short, tmp_path / "second", precision="int4", calibration=QUICK)
    assert len(counted) == PRODUCTS + 1
    assert weights(tmp_path / "first") == weights(tmp_path / "second")


def test_gradients_that_are_damaged_are_measured_again(
    short: Path, tmp_path: Path, counted: list[str]
) -> None:
    """Without them a product would be rounded as if all errors of its outputs were alike."""
    with pytest.raises(KeyboardInterrupt):
        export(
            short,
            tmp_path / "first",
            precision="int4-fast",
            calibration=QUICK,
            progress=Interrupted(2),
        )
    (calibration,) = (cache_directory() / "calibration").glob("*/")
    assert len(list(calibration.glob("*.gradients*"))) == PRODUCTS
    (calibration / "model.layers.0.mlp.c_fc.gradients.safetensors").write_bytes(b"damaged")
    export(short, tmp_path / "first", precision="int4-fast", calibration=QUICK)
    assert len(counted) == PRODUCTS
    shutil.rmtree(cache_directory())
    export(short, tmp_path / "at once", precision="int4-fast", calibration=QUICK)
    assert weights(tmp_path / "first") == weights(tmp_path / "at once")


def test_another_text_recipe_or_checkpoint_is_calibrated_anew(
    short: Path, tmp_path: Path, counted: list[str]
) -> None:
    def run(
        name: str, source: Path = short, precision: str = "int4-fast", **calibration: Any
    ) -> bytes:
        counted.clear()
        export(
            source,
            tmp_path / name,
            precision=precision,
            calibration=Calibration(**{"tokens": LENGTH, **calibration}),
        )
        return (tmp_path / name / "model.onnx.data").read_bytes()

    first = run("first")
    assert len(counted) == PRODUCTS
    assert run("text", files=(Path(HELD_BACK[0]),)) != first
    assert len(counted) == PRODUCTS
    assert (
        quantization(tmp_path / "text").calibration != quantization(tmp_path / "first").calibration
    )
    recipe = tmp_path / "other.json"
    scheme = {"bits": 4, "block_size": 64}
    recipe.write_text(
        json.dumps({"body": scheme, "head": {"bits": 8, "block_size": 128}, "calibrate": True})
    )
    assert run("recipe", precision=str(recipe)) != first
    assert len(counted) == PRODUCTS
    from safetensors.torch import load_file, save_file

    changed = Path(shutil.copytree(short, tmp_path / "changed"))
    weights = load_file(changed / "model.safetensors")
    weights["model.layers.0.input_layernorm.bias"][0] += 0.5
    save_file(weights, changed / "model.safetensors")
    assert run("weights", source=changed) != first
    assert len(counted) == PRODUCTS


def test_a_layers_product_that_the_store_lost_is_not_rounded_to_the_nearest(
    short: Path,
    place: Path,
    contents: Contents,
    during: Callable[[Callable[[], object]], Silent],
) -> None:
    """The store is emptied while the weights are written."""
    export(short, place / "bundle", precision="int4-fast", calibration=QUICK)
    before = contents(place)

    class Losing(Silent):
        def stage(self, text: str, total: int = 0) -> None:
            if text.startswith("writing"):
                for path in (cache_directory() / "calibration").glob("*/model.layers.1.*"):
                    path.unlink()

    with pytest.raises(
        OutputError, match=r"lost model\.layers\.1\.self_attn\.qkv_proj meanwhile: export again"
    ):
        export(
            short,
            place / "bundle",
            precision="int4-fast",
            calibration=QUICK,
            overwrite=True,
            progress=Losing(),
        )
    assert contents(place) == before


def test_a_recipe_is_read_once(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be gone when the calibration is done."""
    recipe = tmp_path / "gone.json"
    recipe.write_text(
        json.dumps(
            {
                "body": {"bits": 4, "block_size": 128},
                "head": {"bits": 8, "block_size": 128},
                "calibrate": True,
            }
        )
    )
    original = calibrate.calibrate

    def meanwhile(*arguments: Any) -> None:
        recipe.unlink()
        original(*arguments)

    monkeypatch.setattr(calibrate, "calibrate", meanwhile)
    assert (
        export(short, tmp_path / "bundle", precision=str(recipe), calibration=QUICK).precision
        == "gone"
    )


@pytest.mark.parametrize("token", [49152, [49152, 0]], ids=str)
def test_a_separator_that_the_model_does_not_have_is_the_configurations_fault(
    checkpoint: Path, tmp_path: Path, token: Any
) -> None:
    changed = Path(shutil.copytree(checkpoint, tmp_path / "changed"))
    settings = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps({**settings, "eos_token_id": token}))
    with pytest.raises(
        CheckpointError,
        match=r"config\.json: eos_token_id is 49152, .* expected 0 to \d+: .* --no-calibration",
    ):
        export(changed, tmp_path / "bundle", precision="int4-fast", calibration=QUICK)


def not_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever takes long fails."""
    for module, name in ((calibrate, "calibrate"), (sensitivity, "measure")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("calibrated first"))


@pytest.mark.parametrize("precision", ["int4", "int4-fast"])
def test_an_export_that_cannot_fit_is_refused_before_calibrating(
    checkpoint: Path,
    bundles: dict[str, Path],
    place: Path,
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By what it may need with lifts: a byte less than the bundle will have is too little."""
    size = (bundles[f"{precision} calibrated"] / "model.onnx.data").stat().st_size
    free = {"nbytes": 0}
    monkeypatch.setattr(
        shutil,
        "disk_usage",
        lambda path: SimpleNamespace(free=free["nbytes"] if Path(path) == place else 1 << 40),
    )
    with monkeypatch.context() as patch:
        not_yet(patch)
        free["nbytes"] = size - 100_000 + (32 << 20)
        with pytest.raises(DiskSpaceError, match="the bundle needs"):
            export(checkpoint, place / "bundle", precision=precision, calibration=QUICK)
    assert list(place.iterdir()) == []
    assert not cache_directory().exists()
    free["nbytes"] = int(size * 1.05) + (32 << 20)
    export(checkpoint, place / "bundle", precision=precision, calibration=QUICK)


def test_a_calibration_that_cannot_be_kept_is_refused_before_it_starts(
    checkpoint: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        shutil,
        "disk_usage",
        lambda path: SimpleNamespace(free=1 << 40 if Path(path) == place else 1 << 20),
    )
    not_yet(monkeypatch)
    with pytest.raises(
        DiskSpaceError, match=r"calibration keeps 0\.01 GB more .* set SC2ONNX_CACHE"
    ):
        export(checkpoint, place / "bundle", precision="int4-fast", calibration=QUICK)
    assert list(place.iterdir()) == []


def test_an_export_and_its_calibration_that_do_not_fit_on_one_disk_are_refused_before_calibrating(
    checkpoint: Path, bundles: dict[str, Path], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would fit by itself."""
    size = (bundles["int4-fast calibrated"] / "model.onnx.data").stat().st_size
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: SimpleNamespace(free=int(size * 1.05) + (32 << 20))
    )
    not_yet(monkeypatch)
    with pytest.raises(
        DiskSpaceError,
        match=r"calibration keeps 0\.01 GB more .* and the bundle takes 0\.04 GB on the same disk",
    ):
        export(checkpoint, place / "bundle", precision="int4-fast", calibration=QUICK)
    assert list(place.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_said_before_calibrating(
    checkpoint: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("SC2ONNX_CACHE", str(tmp_path / "taken"))
    not_yet(monkeypatch)
    with pytest.raises(OutputError, match="set SC2ONNX_CACHE to a directory that can be written"):
        export(checkpoint, place / "bundle", precision="int4-fast", calibration=QUICK)
    export(checkpoint, place / "bundle", precision="int4-fast", calibration=NEAREST)


def test_a_lift_that_blocks_do_not_divide_is_refused_before_calibrating(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 inputs, and a checkpoint of 160."""
    not_yet(monkeypatch)
    changed = Path(shutil.copytree(checkpoint, tmp_path / "changed"))
    from sc2onnx.export.config import Starcoder2Config
    from sc2onnx.export.quantize.recipe import Recipe
    from sc2onnx.export.quantize.weights import schemes
    from sc2onnx.export.weights import LazyWeight

    config = Starcoder2Config.from_dict(json.loads((changed / "config.json").read_text()))
    name = "model.layers.0.mlp.c_fc.weight"
    weights = {name: LazyWeight(name, (64, 160), np.dtype(np.float32), lambda: iter(()))}
    recipe = Recipe(
        "test",
        body=Scheme(4, 32),
        head=Scheme(8, 32),
        lift=Scheme(8, 128),
        body_bits=6.0,
        calibrate=True,
    )
    with pytest.raises(
        RequestError,
        match=(
            r"c_fc\.weight, which may be lifted, has 160 inputs, which blocks of 128 do not divide"
        ),
    ):
        schemes(config, weights, recipe)


@pytest.mark.parametrize(
    ("precision", "calibration", "message"),
    [
        ("fp32", Calibration(True), "asked for where nothing is rounded to integers"),
        (
            "fp32",
            Calibration(files=(Path("a.py"),)),
            "asked for where nothing is rounded to integers",
        ),
        ("fp32", Calibration(tokens=1024), "asked for where nothing is rounded to integers"),
        (
            "fp32",
            Calibration(tokens=DEFAULT_TOKENS),
            "asked for where nothing is rounded to integers",
        ),
        (
            "int8",
            Calibration(tokens=1024),
            "on 1024 tokens where nothing is calibrated, expected --calibration FILE as well",
        ),
    ],
)
def test_calibration_in_vain_is_refused_before_anything_is_read(
    precision: str, calibration: Calibration, message: str, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=message):
        export(tmp_path / "absent", tmp_path / "out", precision=precision, calibration=calibration)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"wanted": False, "files": (Path("a.py"),)}, "switched off and given a text"),
        ({"wanted": False, "tokens": 1024}, "switched off and given a text or a number of tokens"),
        (
            {"wanted": False, "tokens": DEFAULT_TOKENS},
            "switched off and given a text or a number of tokens",
        ),
        ({"files": ()}, "on no files, expected one at least"),
        ({"tokens": LENGTH - 1}, f"on {LENGTH - 1} tokens, expected {LENGTH} at least"),
    ],
)
def test_wishes_that_contradict_each_other(arguments: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Calibration(**arguments)


def test_whether_calibration_applies() -> None:
    from sc2onnx.export.quantize.recipe import PRESETS

    file = (Path("a.py"),)
    assert [Calibration().applies(PRESETS[name]) for name in ("int8", "int4", "int4-fast")] == [
        False,
        True,
        True,
    ]
    assert not Calibration(False).applies(PRESETS["int4"])
    assert not Calibration(False).applies(None)
    assert not Calibration().applies(None)
    assert Calibration(True).applies(PRESETS["int8"])
    assert Calibration(files=file).applies(PRESETS["int8"])
    assert Calibration(tokens=DEFAULT_TOKENS // 2).applies(PRESETS["int4"])


def command(*arguments: object) -> int:
    return main(["export", *map(str, arguments)])


def test_the_options_of_the_command_line(
    short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fast = ("--precision", "int4-fast")
    assert command(short, tmp_path / "off", *fast, "--no-calibration") == 0
    assert quantization(tmp_path / "off").rounding == "nearest"
    assert "rounding layer by layer" not in capsys.readouterr().err
    assert (
        command(
            short,
            tmp_path / "files",
            *fast,
            "--calibration",
            *HELD_BACK,
            "--calibration-tokens",
            1500,
        )
        == 0
    )
    found = quantization(tmp_path / "files")
    assert found.rounding == "calibrated"
    assert found.calibration is not None
    assert found.calibration.startswith(f"{2 * LENGTH} tokens of 2 files (SHA-256 ")
    assert "calibrating on 1024 tokens of 2 files" in capsys.readouterr().err
    assert command(short, tmp_path / "tokens", *fast, "--calibration-tokens", LENGTH) == 0
    assert f"{LENGTH} tokens of code shipped with sc2onnx" in str(
        quantization(tmp_path / "tokens").calibration
    )
    assert (
        command(
            short,
            tmp_path / "int8",
            "--precision",
            "int8",
            "--calibration",
            HELD_BACK[0],
            "--calibration-tokens",
            LENGTH,
        )
        == 0
    )
    assert quantization(tmp_path / "int8").rounding == "calibrated"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--precision", "int4", "--no-calibration", "--calibration", "a.py"),
            "switched off and given a text",
        ),
        (
            ("--precision", "int4", "--no-calibration", "--calibration-tokens", "1024"),
            "switched off and given a text or a number",
        ),
        (
            ("--precision", "int4", "--calibration-tokens", "12"),
            "on 12 tokens, expected 512 at least",
        ),
        (("--precision", "fp32", "--calibration", "a.py"), "nothing is rounded to integers"),
        (("--precision", "int8", "--calibration-tokens", "1024"), "nothing is calibrated"),
        (("--precision", "int4", "--calibration", "absent.py"), "absent.py cannot be read"),
    ],
)
def test_options_that_are_refused(
    checkpoint: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(checkpoint, tmp_path / "out", *options) == 2
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert message in complaint
    assert complaint.startswith("sc2onnx export: ")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_whose_activations_overflow_is_refused(
    short: Path, tmp_path: Path, contents: Contents
) -> None:
    from safetensors.torch import load_file, save_file

    changed = Path(shutil.copytree(short, tmp_path / "changed"))
    weights = load_file(changed / "model.safetensors")
    weights["model.layers.1.mlp.c_fc.weight"].fill_(3e38)
    save_file(weights, changed / "model.safetensors")
    with (
        warnings.catch_warnings(action="error"),
        pytest.raises(
            TensorError, match=r"sensitivity of 8 tensors .* is not finite: check the checkpoint"
        ),
    ):
        export(changed, tmp_path / "out", precision="int4-fast", calibration=QUICK)
    assert not (tmp_path / "out").exists()
