"""The page's files are what its sources make, and the package carries them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from sc2onnx.serve.routes.page import FILES
from tests.conftest import ROOT

SOURCES, BUILT = ROOT / "page", ROOT / "sc2onnx" / "serve" / "page"
LIMIT = 600_000
"""Bytes of what a browser fetches."""

BUILD = """
import sys
sys.path.insert(0, sys.argv[3])
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
for builder in (SdistBuilder, WheelBuilder):
    list(builder(sys.argv[1]).build(directory=sys.argv[2]))
"""
"""Builds a project: its folder, where to, and where the build backend is."""


def run(*command: object, cwd: Path, unless: str | None = None) -> None:
    """A command. The test is skipped where it fails with a word in what it says."""
    words = [*map(str, command)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd, timeout=300)
    if done.returncode and unless and unless in done.stderr:
        reason = done.stderr.strip().splitlines()[-1]
        pytest.skip(f"{words[0]} cannot get what it needs: {reason}")
    assert done.returncode == 0, done.stderr + done.stdout


def test_it_is_what_is_served_and_small() -> None:
    assert {path.name for path in BUILT.iterdir()} == set(FILES)
    fetched = [BUILT / name for name in ("index.html", "page.js", "page.css")]
    assert sum(path.stat().st_size for path in fetched) < LIMIT


def test_it_is_what_its_sources_make(tmp_path: Path) -> None:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("npm is missing: install Node.js")
    sources, built = tmp_path / "page", tmp_path / "built"
    shutil.copytree(SOURCES, sources, ignore=shutil.ignore_patterns("node_modules"))
    for command in ([npm, "ci"], [npm, "run", "check"], [node, "build.mjs", built]):
        run(*command, cwd=sources, unless="network")
    assert {path.name for path in built.iterdir()} == set(FILES)
    differ = [each for each in FILES if (built / each).read_bytes() != (BUILT / each).read_bytes()]
    assert not differ, "run `make page` and commit what it writes"


def test_the_wheel_and_the_source_distribution_carry_it(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    pip = (sys.executable, "-m", "pip", "install", "-q")
    run(*pip, "--target", tools, "hatchling", cwd=tmp_path, unless="hatchling")
    run(sys.executable, "-c", BUILD, ROOT, tmp_path, tools, cwd=tmp_path)
    (wheel,), (source,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        assert {f"sc2onnx/serve/page/{name}" for name in FILES} <= set(archive.namelist())
    with tarfile.open(source) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {f"sc2onnx/serve/page/{name}" for name in FILES} <= names
    assert {"page/src/main.ts", "page/package-lock.json"} <= names
    assert not [name for name in names if "node_modules" in name]
