"""``sc2onnx evaluate`` of bundles against a base with adapters: merged, or run beside the base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("peft")

from sc2onnx.cli.main import main
from sc2onnx.export import convert_adapter, export
from tests.export.fine_tunes.shapes import Made

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def made(fine_tune: Callable[[str], Made]) -> Made:
    return fine_tune("attention")


@pytest.fixture(scope="module")
def divergence(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., float]:
    """``divergence(bundle, adapters)``: KL to the base with these adapters, by the command line."""
    place = tmp_path_factory.mktemp("evaluated")
    source = place / "code.py"
    source.write_text("def add(a, b):\n    return a + b\n\n\nprint(add(1, 2), add(3, 4))\n" * 3)

    def found(bundle: Path, *adapters: Path) -> float:
        asked = ["evaluate", str(bundle), str(source), "--against", str(made.base)]
        asked += ["--length", "24", "--score-tokens", "48", "--save", str(place / "figures.json")]
        asked += [word for each in adapters for word in ("--adapter", str(each))]
        assert main([*asked, "--quiet"]) == 0
        figures = json.loads((place / "figures.json").read_text())
        return float(figures["scores"][0]["difference"]["kl_divergence"])

    return found


def test_a_merged_bundle_is_the_base_with_its_adapter(
    made: Made, divergence: Callable[..., float], tmp_path: Path
) -> None:
    (path, _), *_ = made.adapters
    export(made.base, tmp_path / "merged", adapters=[path])
    assert divergence(tmp_path / "merged", path) < 1e-7
    assert divergence(tmp_path / "merged") > 1e-4


def test_so_is_the_base_that_runs_with_it(
    made: Made,
    divergence: Callable[..., float],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (path, _), *_ = made.adapters
    export(made.base, tmp_path / "plain")
    convert_adapter(path, tmp_path / "converted")
    assert divergence(tmp_path / "plain", tmp_path / "converted", path) < 1e-7
    assert divergence(tmp_path / "plain", tmp_path / "converted") > 1e-4
    told = capsys.readouterr().out
    assert "plain with converted" in told
    assert "tiny with it" in told


def test_another_adapter_than_the_bundle_has_is_refused(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path, _), *_ = made.adapters
    export(made.base, tmp_path / "plain")
    asked = ["evaluate", str(tmp_path / "plain"), __file__, "--against", str(made.base)]
    assert main([*asked, "--adapter", str(path)]) != 0
    assert "1 adapters are given, the bundle has none merged" in capsys.readouterr().err
