"""Bundles that are cut into stages: where, and that they compute what the single graph does."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import sc2onnx
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import BundleError, BundleIntegrityError, DeviceError, RequestError
from sc2onnx.export import Calibration, export
from sc2onnx.export.stages import balanced, ranges
from sc2onnx.runtime.loading import open_model
from sc2onnx.runtime.opening.bundle import Bundle
from sc2onnx.verify.emulate import emulated

Make = Callable[..., Path]

pytestmark = pytest.mark.filterwarnings("ignore:.*(tokenizer.json|for cuda):UserWarning")


@pytest.mark.parametrize(
    ("sizes", "parts", "expected"),
    [
        ([1, 1, 1, 1], 1, (4,)),
        ([1, 1, 1, 1], 2, (2, 2)),
        ([1, 1, 1], 3, (1, 1, 1)),
        ([5, 1, 1, 1, 1, 1], 2, (1, 5)),
        ([1, 1, 1, 1, 1, 5], 2, (5, 1)),
        ([4, 1, 1, 1, 1, 1, 4], 3, (1, 4, 2)),
        ([1] * 7, 3, (2, 2, 3)),
    ],
)
def test_the_heaviest_stage_is_as_light_as_can_be(
    sizes: list[int], parts: int, expected: tuple[int, ...]
) -> None:
    assert balanced(sizes, parts) == expected


def test_ranges() -> None:
    assert list(ranges((2, 5))) == [range(2), range(2, 7)]


def exported(checkpoint: Path, out: Path, stages: int, precision: str, target: str) -> Path:
    calibration = Calibration(False) if precision.startswith("int") else None
    export(
        checkpoint, out, precision=precision, target=target, calibration=calibration, stages=stages
    )
    return out


def opened(path: Path) -> sc2onnx.Model:
    """In half precision with every rounding: left to itself, onnxruntime's CPU provider drops
    those that no stage ends at.
    """
    bundle = Bundle.open(path)
    halves = bundle.manifest.cache.dtype != "float32"
    return open_model(bundle, [emulated(graph) for graph in bundle.graphs] if halves else ())


@pytest.mark.parametrize(
    ("precision", "target"),
    [("fp32", "cpu"), ("int4", "cpu"), ("int8", "portable"), ("fp16", "cuda"), ("int4", "cuda")],
)
@pytest.mark.parametrize("stages", [2, 3, 6])
def test_stages_compute_what_one_graph_computes(
    checkpoint: Path, tmp_path: Path, precision: str, target: str, stages: int
) -> None:
    """To the last bit, past the window, in uneven steps, after a rewind, several rows together."""
    whole, cut = (
        exported(checkpoint, tmp_path / str(count), count, precision, target)
        for count in (1, stages)
    )
    assert (whole / "model.onnx.data").read_bytes() == (cut / "model.onnx.data").read_bytes()
    models = [opened(path) for path in (whole, cut)]
    tokens = np.random.default_rng(0).integers(0, 4096, 320)
    found = []
    for model in models:
        with model.sequence() as sequence:
            parts = [sequence.append(tokens[:200]), sequence.append(tokens[200:301])]
            sequence.rewind(30)
            parts += [sequence.append(tokens[i : i + 1]) for i in range(271, 320)]
        found.append(np.concatenate([part for part in parts if part is not None]))
    np.testing.assert_array_equal(found[0], found[1])
    texts = [
        model.generate(["def a():", "import os, sys\n\n", "class B"], max_new_tokens=12)
        for model in models
    ]
    assert texts[0] == texts[1]


def test_files_and_manifest(checkpoint: Path, tmp_path: Path) -> None:
    export(checkpoint, tmp_path / "bundle", stages=3)
    manifest = Manifest.read(tmp_path / "bundle")
    assert sum(manifest.stages) == 6
    assert manifest.graphs == ("model.0.onnx", "model.1.onnx", "model.2.onnx")
    assert set(manifest.graphs) < set(manifest.files)
    assert not (tmp_path / "bundle" / "model.onnx").exists()
    graphs = [
        onnx.load(tmp_path / "bundle" / name, load_external_data=False).graph
        for name in manifest.graphs
    ]
    named = [{tensor.name for tensor in graph.initializer} for graph in graphs]
    # the head is tied to it
    assert ["model.embed_tokens.weight" in names for names in named] == [True, False, True]
    layers = [
        {int(name.split(".")[2]) for name in names if name.startswith("model.layers.")}
        for names in named
    ]
    assert [sorted(part) for part in layers] == [list(part) for part in ranges(manifest.stages)]
    for name in manifest.graphs:
        onnx.checker.check_model(tmp_path / "bundle" / name, full_check=True)
    (tmp_path / "bundle" / "model.1.onnx").unlink()
    with pytest.raises(BundleIntegrityError, match=r"model.1.onnx is missing"):
        sc2onnx.load(tmp_path / "bundle")


def test_the_command_line_cuts_and_runs(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sc2onnx.cli.main import main

    bundle = str(tmp_path / "bundle")
    assert main(["export", str(checkpoint), bundle, "--stages", "2"]) == 0
    assert main(["info", bundle]) == 0
    assert "3 + 3 layers" in capsys.readouterr().out
    assert (
        main(
            [
                "generate",
                bundle,
                "def add(a, b):",
                "--max-new-tokens",
                "4",
                "--device-map",
                "cpu",
                "cpu",
            ]
        )
        == 0
    )
    expected = sc2onnx.load(bundle).generate("def add(a, b):", max_new_tokens=4).text
    assert expected in capsys.readouterr().out
    assert main(["generate", bundle, "x", "--device-map", "cpu"]) == 2
    assert "expected a list of 2, one for each stage of the bundle" in capsys.readouterr().err
    assert main(["generate", bundle, "x", "--device-map", "cpu", "cpu", "--device", "auto"]) == 2
    assert "--device and --device-map are given, expected either" in capsys.readouterr().err


@pytest.mark.parametrize("stages", [0, -1, 3, 1.5, True, "2", None])
def test_as_many_stages_as_layers_at_most(
    make_checkpoint: Make, tmp_path: Path, stages: Any
) -> None:
    with pytest.raises(
        RequestError, match=r"stages is .*, expected a whole number from 1 to 2, the model's layers"
    ):
        export(make_checkpoint(), tmp_path / "bundle", stages=stages)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("device_map", [[], ["cpu"], ["cpu"] * 3])
def test_a_device_for_each_stage(checkpoint: Path, tmp_path: Path, device_map: Any) -> None:
    export(checkpoint, tmp_path / "bundle", stages=2)
    with pytest.raises(
        DeviceError,
        match=r"device_map is .*, expected a list of 2, one for each stage of the bundle",
    ):
        sc2onnx.load(tmp_path / "bundle", device_map=device_map)
    with pytest.raises(
        RequestError, match=r"device_map is 'cpu', expected a list of devices, one for each stage"
    ):
        sc2onnx.load(tmp_path / "bundle", device_map="cpu")
    assert sc2onnx.load(tmp_path / "bundle", device_map=["cpu", "cpu"]).manifest.stages == (3, 3)


@pytest.mark.parametrize("stages", [[1, 2], [0, 6], [7, -1]])
def test_a_manifest_whose_stages_do_not_add_up_is_refused(
    checkpoint: Path, tmp_path: Path, stages: list[int]
) -> None:
    export(checkpoint, tmp_path / "bundle", stages=2)
    path = tmp_path / "bundle" / "sc2onnx.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "stages": stages}))
    with pytest.raises(BundleError, match=r"stages are .*, expected layers that add up to 6"):
        sc2onnx.load(tmp_path / "bundle")


def test_a_quantised_bundle_in_stages_runs_without_the_kernels(
    checkpoint: Path, tmp_path: Path
) -> None:
    export(
        checkpoint, tmp_path / "bundle", precision="int4", calibration=Calibration(False), stages=2
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = sc2onnx.load(tmp_path / "bundle", packed="now", kernels="off")
    assert (model.kernels, model.packed) == (False, False)
