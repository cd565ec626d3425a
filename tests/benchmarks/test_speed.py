"""benchmarks/speed.py where its peers are not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "speed.py"
QUICK = (
    "--context",
    "16",
    "300",
    "--steps",
    "2",
    "--prefill",
    "20",
    "--repeat",
    "2",
    "--threads",
    "1",
)

# it compares bundles with their checkpoint, as the exporter reads it
pytest.importorskip("onnx_ir")


def speed(*arguments: object, without: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if without is not None:
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(without), environment.get("PYTHONPATH", "")]
        )
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=240, env=environment
    )


def test_a_peer_that_is_not_installed_is_a_line_that_says_why(
    checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    absent = tmp_path / "absent"
    absent.mkdir()
    for package in ("llama_cpp", "nncf"):
        (absent / f"{package}.py").write_text(
            f"raise ModuleNotFoundError(\"No module named '{package}'\", name='{package}')"
        )
    options = (
        "--peers",
        "llama.cpp",
        "openvino",
        *QUICK,
        "--save",
        tmp_path / "s.json",
        "--scratch",
        tmp_path / "scratch",
    )
    done = speed(checkpoint, "--bundles", bundle, *options, without=absent)
    assert done.returncode == 0, done.stderr
    for name, package in (
        ("llama.cpp Q4_0", "llama_cpp"),
        ("llama.cpp Q8_0", "llama_cpp"),
        ("OpenVINO int4, group 128", "nncf"),
    ):
        assert (
            f"{name}: not measured, ModuleNotFoundError: No module named '{package}'" in done.stdout
        )
    assert "| decode at 300 (ms) |" in done.stdout
    figures = json.loads((tmp_path / "s.json").read_text())
    assert [row["name"] for row in figures["rows"]] == [f"sc2onnx {bundle.name}"]
    assert len(figures["missing"]) == 3
    assert figures["checkpoint"] == checkpoint.name
    assert "onnxruntime" in figures["versions"]


@pytest.mark.torch
def test_torch_takes_its_turn(checkpoint: Path, bundle: Path) -> None:
    pytest.importorskip("torch")
    done = speed(checkpoint, "--bundles", bundle, "--peers", "torch", *QUICK)
    assert done.returncode == 0, done.stderr
    assert f"| time of sc2onnx {bundle.name} over that of | torch bf16 |" in done.stdout


def test_mistakes_are_one_line(checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ((checkpoint, "--bundles", tmp_path / "absent"), "no bundle at"),
        ((checkpoint, "--bundles", bundle, "--context", "4096"), "the model's context holds 2048"),
        ((tmp_path, "--bundles", bundle), "config.json"),
    ):
        done = speed(*arguments)
        assert done.returncode == 1
        assert message in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
