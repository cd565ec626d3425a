"""What an application ships: the wheel of the runtime alone, its size, and that it runs and says what it has not."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

LIMIT = 250_000
"""Bytes."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--disable-pip-version-check",
        "--no-deps",
        "-w",
        str(out),
        str(ROOT / "packaging" / "runtime"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode and "hatchling" in done.stderr:
        pytest.skip(f"the build backend cannot be had: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out)
    return out


def run(unpacked: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line of the unpacked wheel, away from the source tree."""
    command = [sys.executable, "-m", "sc2onnx", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=unpacked, env={**os.environ, "PYTHONPATH": str(unpacked)})


ABSENT = ("batching", "exporting", "lsp", "measuring", "plan_table", "routing", "serving")
"""Of the command line: what only the whole package can do."""


def test_it_lists_every_module_but_those_that_the_whole_package_has_alone() -> None:
    """Needs no build, so that a new module is missed at once."""
    settings = tomllib.loads((ROOT / "packaging" / "runtime" / "pyproject.toml").read_text(encoding="utf-8"))
    listed = {Path(name).name for name in settings["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]} - {"LICENSE"}
    there = {path.name for path in (ROOT / "sc2onnx").iterdir() if path.name not in ("__pycache__", ".DS_Store")}
    commands = {path.name for path in (ROOT / "sc2onnx" / "cli").glob("*.py")} - listed
    assert commands == {f"{name}.py" for name in ABSENT}
    there = there - {"cli"} | {path.name for path in (ROOT / "sc2onnx" / "cli").glob("*.py")} - commands
    assert there - listed == {"batch", "bench", "evaluate", "export", "fleet", "serve", "verify", "plotting.py"}
    assert listed <= there


def test_it_is_small(wheel: Path) -> None:
    assert wheel.name.startswith("sc2onnx_runtime-")
    assert 50_000 < wheel.stat().st_size < LIMIT


def test_it_has_what_it_imports(unpacked: Path) -> None:
    """Every module of it can be imported, but for what only the whole package has."""
    names = [".".join(path.relative_to(unpacked).with_suffix("").parts) for path in sorted((unpacked / "sc2onnx").rglob("*.py"))]
    assert "sc2onnx.runtime.model" in names
    assert not [name for name in names if name.split(".")[1] in ("export", "verify", "evaluate", "batch", "bench", "serve")]
    imported = [name for name in names if not name.endswith("__")]
    code = f"import importlib, sc2onnx\nfor name in {imported}: importlib.import_module(name)\nprint(sc2onnx.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=unpacked, env={**os.environ, "PYTHONPATH": str(unpacked)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(unpacked))


def test_it_runs(unpacked: Path, bundle: Path) -> None:
    done = run(unpacked, "generate", bundle, "def fib(n):", "--max-new-tokens", 8)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert run(unpacked, "info", bundle).returncode == 0
    found = run(unpacked, "doctor")
    assert found.returncode == 0
    assert "needs" not in found.stdout
    assert "sc2onnx         0.1.0, the runtime alone" in found.stdout
    assert "pip install sc2onnx" not in found.stdout


LACKING = [
    ("export", "checkpoint", "out"),
    ("verify", "BUNDLE", "checkpoint"),
    ("bench", "BUNDLE"),
    ("serve", "BUNDLE"),
    ("lsp", "BUNDLE"),
    ("route",),
    ("batch", "BUNDLE", "in.jsonl", "--output", "out.jsonl", "--task", "complete"),
    ("plan", "x"),
]


@pytest.mark.parametrize("arguments", LACKING)
def test_it_says_what_it_has_not(unpacked: Path, bundle: Path, arguments: tuple[str, ...]) -> None:
    done = run(unpacked, *(bundle if word == "BUNDLE" else word for word in arguments))
    assert done.returncode == 2
    assert "this is the runtime alone, which cannot do that: install sc2onnx, from its clone or wheel, instead" in done.stderr
    assert done.stderr.count("\n") == 1
