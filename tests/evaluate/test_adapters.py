"""Evaluations of bundles that run with an adapter; merged ones are in ``export/fine_tunes``."""

from __future__ import annotations

import json
import queue
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sc2onnx
from sc2onnx.cli.main import main
from sc2onnx.errors import AdapterError, RequestError
from sc2onnx.evaluate import Settings, evaluate
from sc2onnx.evaluate.measure import token_nll
from sc2onnx.runtime.text.codec import Codec
from tests.adapters import random_adapter

SOURCE = Path(queue.__file__)
QUICK = Settings(length=30, max_tokens=60)


@pytest.fixture(scope="module")
def adapter(model: sc2onnx.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("adapter") / "sql"
    return random_adapter(place, model.manifest.model, 4, seed=3)


def test_the_likelihood_is_that_with_the_adapter(bundle: Path, adapter: Path) -> None:
    plain, adapted = (
        evaluate(bundle, [SOURCE], settings=replace(QUICK, adapter=each))
        for each in (None, adapter)
    )
    model = sc2onnx.load(bundle)
    model.load_adapter(adapter, "x")
    ids = _ids(model.codec)
    with model.sequence(adapter="x") as sequence:
        logits = sequence.append(ids[:30])
    assert logits is not None
    first = token_nll(logits, np.array(ids[1:31]))
    one = evaluate(bundle, [SOURCE], settings=Settings(length=30, max_tokens=30, adapter=adapter))
    assert one.scores[0].nll == pytest.approx(float(first.mean()), rel=1e-4)
    assert abs(adapted.scores[0].nll - plain.scores[0].nll) > 0.01
    assert adapted.scores[0].about.name == f"{bundle.name} with sql"
    assert plain.scores[0].about.name == bundle.name


@pytest.mark.filterwarnings("ignore:.*to the bit")
def test_the_reference_runs_with_it_as_well(bundle: Path, int8_bundle: Path, adapter: Path) -> None:
    settings = replace(QUICK, adapter=adapter)
    report = evaluate(int8_bundle, [SOURCE], also=[bundle], against=bundle, settings=settings)
    rounded, same = (score.difference for score in report.scores)
    assert report.reference is not None
    assert report.reference.about.name == f"{bundle.name} with sql"
    assert rounded is not None
    assert same is not None
    assert same.max_abs_diff == 0
    assert 0 < rounded.kl_divergence < 0.1


def test_a_bundle_with_adapters_in_its_weights_takes_no_other(
    bundle: Path, adapter: Path, tmp_path: Path
) -> None:
    """As a reference it stays as it is."""
    merged = shutil.copytree(bundle, tmp_path / "merged")
    raw = json.loads((merged / "sc2onnx.json").read_text())
    digests = {"sha256": "0" * 64, "settings_sha256": "0" * 64}
    record = {"source": "it", "revision": None, "license": None, "kind": "LoRA", "weight": 1.0}
    raw["provenance"]["adapters"] = [{**record, **digests}]
    (merged / "sc2onnx.json").write_text(json.dumps(raw))
    settings = replace(QUICK, adapter=adapter)
    with pytest.raises(RequestError, match=r"the bundle has it \(LoRA\) in its weights"):
        evaluate(merged, [SOURCE], settings=settings)
    report = evaluate(bundle, [SOURCE], against=merged, settings=settings)
    assert report.reference is not None
    assert report.reference.about.name == "merged"
    difference = report.scores[0].difference
    assert difference is not None
    assert difference.kl_divergence > 0.001


def test_an_adapter_that_is_none_is_refused_before_any_work(bundle: Path, tmp_path: Path) -> None:
    told = list[str]()
    with pytest.raises(AdapterError, match="is no converted adapter"):
        evaluate(bundle, [SOURCE], settings=replace(QUICK, adapter=tmp_path), tell=told.append)
    assert not told


def test_the_command_line(
    bundle: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["evaluate", str(bundle), str(SOURCE), "--length", "20", "--score-tokens", "20"]
    assert main([*asked, "--adapter", str(adapter), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scores"][0]["about"]["name"] == f"{bundle.name} with sql"
    assert main([*asked, "--adapter", str(adapter), "--adapter", str(adapter)]) == 2
    assert "expected one that the bundles run with" in capsys.readouterr().err
    assert main([*asked, "--adapter", str(tmp_path)]) == 2
    assert "is no converted adapter, and --against is nothing" in capsys.readouterr().err
    assert main([*asked, "--adapter", str(tmp_path), "--against", str(bundle)]) == 2
    assert "is no converted adapter, and --against is a bundle" in capsys.readouterr().err


def _ids(codec: Codec) -> list[int]:
    return codec.encode(SOURCE.read_text(encoding="utf-8"), special=False)
