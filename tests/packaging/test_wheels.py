"""The wheels: what an application ships, its size, that it runs, and that no two share a file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

LIMIT = 330_000
"""Bytes."""

RUNTIME = ROOT / "packaging" / "runtime"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Those of sc2onnx and sc2onnx-runtime, by name."""
    out = tmp_path_factory.mktemp("wheels")
    for project in (ROOT, RUNTIME):
        words = ("wheel", "-q", "--disable-pip-version-check", "--no-deps", "-w", out, project)
        command = [sys.executable, "-m", "pip", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode and "hatchling" in done.stderr:
            reason = done.stderr.strip().splitlines()[-1]
            pytest.skip(f"the build backend cannot be had: {reason}")
        assert done.returncode == 0, done.stderr
    return {made.name.split("-")[0]: made for made in out.iterdir()}


@pytest.fixture(scope="module")
def wheel(wheels: dict[str, Path]) -> Path:
    """The runtime's."""
    return wheels["sc2onnx_runtime"]


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out)
    return out


def run(unpacked: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line of the unpacked wheel, away from the source tree."""
    command = [sys.executable, "-m", "sc2onnx_runtime", *map(str, arguments)]
    return within(unpacked, command)


def within(folder: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder, env=env)


def files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_no_file_of_one_wheel_is_in_the_other(wheels: dict[str, Path]) -> None:
    """Nor a command: installed beside each other, neither overwrites or removes what is not its."""
    whole, runtime = files(wheels["sc2onnx"]), files(wheels["sc2onnx_runtime"])
    assert not whole & runtime
    assert {name.split("/")[0] for name in whole} == {"sc2onnx", "sc2onnx-0.1.0.dist-info"}
    assert commands(wheels["sc2onnx"]) == {"sc2onnx"}
    assert commands(wheels["sc2onnx_runtime"]) == {"sc2onnx-runtime"}


def commands(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith("/entry_points.txt"))
        return set(re.findall(r"(?m)^([\w-]+) = ", archive.read(name).decode()))


def test_every_wheel_has_the_licence(wheels: dict[str, Path]) -> None:
    for wheel in wheels.values():
        assert [name for name in files(wheel) if name.endswith(".dist-info/licenses/LICENSE")]


def test_what_is_left_out_is_what_only_the_whole_package_can_do(wheel: Path) -> None:
    there = {name.removeprefix("sc2onnx_runtime/") for name in files(wheel)}
    settings = tomllib.loads((RUNTIME / "pyproject.toml").read_text(encoding="utf-8"))
    absent = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["absent"]
    package = ROOT / "sc2onnx"
    for path in package.rglob("*.py"):
        name = path.relative_to(package).as_posix()
        left_out = any(name == each or name.startswith(f"{each}/") for each in absent)
        assert (name in there) is not left_out, name


def test_requirements_are_those_of_the_whole_package() -> None:
    whole, runtime = (
        tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for folder in (ROOT, RUNTIME)
    )
    assert runtime["dependencies"] == whole["dependencies"]
    assert runtime["requires-python"] == whole["requires-python"]
    extras = runtime["optional-dependencies"]
    assert extras.items() <= whole["optional-dependencies"].items()
    assert set(extras) == {"cpu", "gpu", "kernels", "chat", "constrained"}


def test_it_is_small(wheel: Path) -> None:
    assert wheel.name.startswith("sc2onnx_runtime-")
    assert 50_000 < wheel.stat().st_size < LIMIT


IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(sys.modules["sc2onnx_runtime"].__file__)
print(*[name for name in sys.modules if name.split(".")[0] == "sc2onnx"])
"""


def test_it_has_what_it_imports_and_nothing_of_sc2onnx(unpacked: Path) -> None:
    paths = sorted((unpacked / "sc2onnx_runtime").rglob("*.py"))
    names = [".".join(path.relative_to(unpacked).with_suffix("").parts) for path in paths]
    assert "sc2onnx_runtime.runtime.model" in names
    imported = [name for name in names if not name.endswith("__")]
    done = within(unpacked, [sys.executable, "-c", IMPORT_ALL, *imported])
    assert done.returncode == 0, done.stderr
    where, others = done.stdout.splitlines()
    assert where.startswith(str(unpacked))
    assert others == ""


BESIDE = """
import sys, sc2onnx, sc2onnx_runtime
prompt = "def fib(n):"
made = [each.load(sys.argv[1]).generate(prompt, max_new_tokens=8).tokens
        for each in (sc2onnx, sc2onnx_runtime)]
assert made[0] == made[1] and len(made[0]) == 8, made
assert not issubclass(sc2onnx_runtime.Sc2onnxError, sc2onnx.Sc2onnxError)
"""


def test_both_work_in_one_process(unpacked: Path, bundle: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(unpacked), str(ROOT)])}
    command = [sys.executable, "-c", BESIDE, str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr


def test_it_runs(unpacked: Path, bundle: Path) -> None:
    done = run(unpacked, "generate", bundle, "def fib(n):", "--max-new-tokens", 8)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert run(unpacked, "info", bundle).returncode == 0
    assert run(unpacked, "--help").stdout.startswith("usage: sc2onnx-runtime ")
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
    assert (
        "this is the runtime alone, which cannot do that: install sc2onnx, from its clone or wheel"
        in done.stderr
    )
    assert done.stderr.count("\n") == 1
