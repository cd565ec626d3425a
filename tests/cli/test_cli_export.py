"""``sc2onnx export`` and ``verify`` as a user runs them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx_ir", reason="needs the export extra")
pytest.importorskip("torch", reason="needs the verify extra")


def sc2onnx(*arguments: str | Path, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sc2onnx", *map(str, arguments)]
    return subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=300, check=False
    )


def test_export_then_verify_from_another_directory(checkpoint: Path, tmp_path: Path) -> None:
    done = sc2onnx("export", checkpoint, "mini", "--precision", "fp32", directory=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "5,392,896 parameters, fp32" in done.stdout
    assert done.stderr.count("\n") == 3  # a line per stage, no bar: this is no terminal
    done = sc2onnx(
        "verify",
        "mini",
        checkpoint,
        "--save",
        "figures.json",
        "--length",
        "64",
        "--greedy",
        "16",
        directory=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout
    assert "Warning" not in done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["summary"]["passed"] is True
    assert {case["length"] for case in figures["cases"]} == {1, 64}
    assert "passed" in sc2onnx("info", "mini", directory=tmp_path).stdout


def test_the_manifest_can_be_had_as_json(checkpoint: Path, tmp_path: Path) -> None:
    done = sc2onnx("export", checkpoint, "mini", "--json", directory=tmp_path)
    assert json.loads(done.stdout)["manifest"] == json.loads(
        (tmp_path / "mini" / "sc2onnx.json").read_text()
    )


def test_a_wrong_bundle_fails_with_status_1(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = Path(shutil.copytree(checkpoint, tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.bias"][0] += 0.5
    save_file(weights, broken / "model.safetensors")
    fp32 = ("--precision", "fp32")
    assert sc2onnx("export", broken, "mini", *fp32, directory=tmp_path).returncode == 0
    done = sc2onnx(
        "verify", "mini", checkpoint, "--length", "16", "--greedy", "0", directory=tmp_path
    )
    assert done.returncode == 1
    assert "FAILED" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("export", "absent", "out"),
            "no directory absent: give a checkpoint directory or a hub id",
        ),
        (
            ("export", "CHECKPOINT", "out", "--precision", "fp8"),
            "precision is 'fp8', expected one of fp32",
        ),
        (
            ("export", "CHECKPOINT", "taken"),
            "taken exists: choose another path, or pass --overwrite",
        ),
        (
            ("export", "CHECKPOINT", "taken", "--overwrite"),
            "taken exists and is not a bundle, so it is not overwritten",
        ),
        (("export", "CHECKPOINT", "absent/out"), "absent is not a directory"),
        (("export", "CHECKPOINT", "out", "--revision", "main"), "it has no revision 'main'"),
        (("verify", "absent", "CHECKPOINT"), "no bundle at absent"),
        (("verify", "absent", "CHECKPOINT", "--save", "figures.json"), "no bundle at absent"),
        (
            ("verify", "absent", "CHECKPOINT", "--save", "nowhere/figures.json"),
            "nowhere cannot be written to",
        ),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    checkpoint: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").touch()
    done = sc2onnx(
        *(str(checkpoint) if argument == "CHECKPOINT" else argument for argument in arguments),
        directory=tmp_path,
    )
    assert done.returncode == 2
    errors = [
        line for line in done.stderr.splitlines() if not line.startswith(("reading ", " length"))
    ]
    assert len(errors) == 1, done.stderr
    assert message in errors[0]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "sc2onnx-cache") == [
        "taken"
    ]


def test_an_unknown_setting_is_vouched_for(checkpoint: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(checkpoint, tmp_path / "copied"))
    settings = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**settings, "novelty": 3, "other": 4}))
    refused = sc2onnx("export", copied, "mini", directory=tmp_path)
    assert refused.returncode == 2
    assert "unknown setting novelty=3, other=4, expected" in refused.stderr
    allow = ("--allow-setting", "novelty", "--allow-setting", "other")
    assert sc2onnx("plan", copied, *allow, directory=tmp_path).returncode == 0
    done = sc2onnx("export", copied, "mini", "--json", *allow, directory=tmp_path)
    origin = json.loads(done.stdout)["manifest"]["provenance"]
    assert origin["allowed_settings"] == ["novelty", "other"]
