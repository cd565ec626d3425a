"""``sc2onnx verify`` of a bundle with adapters: against base and adapters, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("peft")

from sc2onnx.cli.main import main
from sc2onnx.errors import CheckpointError
from sc2onnx.export import Calibration, export
from sc2onnx.verify import verify
from tests.export.fine_tunes.shapes import Made, adapter

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def made(fine_tune: Callable[[str], Made]) -> Made:
    return fine_tune("attention")


@pytest.fixture(scope="module")
def exported(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    out = tmp_path_factory.mktemp("exported") / "bundle"
    export(made.base, out, adapters=dict(made.adapters))
    return out


def test_the_base_alone_is_not_what_the_bundle_was_made_from(made: Made, exported: Path) -> None:
    with pytest.raises(CheckpointError, match="0 adapters are given, the bundle has it merged"):
        verify(exported, made.base, max_length=2, greedy_tokens=0)


def test_nor_is_another_adapter(made: Made, exported: Path, tmp_path: Path) -> None:
    other = adapter(tmp_path / "other", made.base, seed=99, target_modules=["q_proj"])
    with pytest.raises(
        CheckpointError, match=r"adapter_model\.safetensors of .* is not that of it"
    ):
        verify(exported, made.base, adapters=[other], max_length=2, greedy_tokens=0)


def test_an_adapter_for_a_bundle_without_one(made: Made, tmp_path: Path) -> None:
    export(made.base, tmp_path / "plain")
    with pytest.raises(CheckpointError, match="1 adapters are given, the bundle has none merged"):
        verify(
            tmp_path / "plain", made.base, adapters=[made.adapters[0][0]],
            max_length=2, greedy_tokens=0,
        )  # fmt: skip


def test_another_weight_is_found_out(made: Made, tmp_path: Path) -> None:
    """The check is no formality: a manifest that misstates the weight fails."""
    export(made.base, out := tmp_path / "bundle", adapters=dict(made.adapters))
    raw = json.loads((out / "sc2onnx.json").read_text())
    raw["provenance"]["adapters"][0]["weight"] = 0.9
    (out / "sc2onnx.json").write_text(json.dumps(raw))
    paths = [path for path, _ in made.adapters]
    report = verify(out, made.base, adapters=paths, max_length=4, greedy_tokens=0)
    assert not report.summary.passed


def test_integers_of_a_merged_adapter(made: Made, tmp_path: Path) -> None:
    export(
        made.base, out := tmp_path / "bundle", adapters=dict(made.adapters), precision="int8",
        calibration=Calibration(False),
    )  # fmt: skip
    paths = [path for path, _ in made.adapters]
    assert verify(out, made.base, adapters=paths, max_length=4, greedy_tokens=4).summary.passed


def test_the_command_line(made: Made, exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path, _), *_ = made.adapters
    asked = ["verify", str(exported), str(made.base), "--length", "2", "--greedy", "0", "--json"]
    assert main([*asked, "--adapter", str(path)]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert "it (LoRA) merged by peft" in summary["reference"]
