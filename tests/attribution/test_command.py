"""``sc2onnx attribution``."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from sc2onnx.cli.main import main
from tests.conftest import ROOT

PACKAGE = ROOT / "sc2onnx" / "bundle"


@pytest.fixture
def index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "sources.index"
    assert main(["attribution", "index", str(PACKAGE), "--output", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"{path}: ")
    return path


def test_a_copy_is_told_of_with_status_1(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attribution", "check", str(index), str(PACKAGE / "files.py")]) == 1
    told = capsys.readouterr().out
    assert f" repeat {PACKAGE}/files.py, lines 1-" in told


def test_standard_input_is_checked_and_json_is_printed(
    index: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = io.TextIOWrapper(io.BytesIO((PACKAGE / "files.py").read_bytes()))
    monkeypatch.setattr(sys, "stdin", given)
    assert main(["attribution", "check", str(index), "--json"]) == 1
    (match,) = json.loads(capsys.readouterr().out)
    assert match["sources"][0]["file"] == f"{PACKAGE}/files.py"
    assert match["begin"] == 0
    assert match["places"] == 1


def test_what_is_new_is_status_0(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = tmp_path / "fresh.py"
    fresh.write_text("".join(f"name_{number} = {number * 7}\n" for number in range(50)))
    assert main(["attribution", "check", str(index), str(fresh)]) == 0
    assert capsys.readouterr().out.startswith("nothing of it stands in the ")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["index", "docs"], "give --output OUT"),
        (["index", "nowhere", "--output", "x.index"], "nowhere is not there"),
        (["index", "docs", "--output", "x.index", "--most-bytes", "0"], "--most-bytes is 0"),
        (["check", "README.md", "README.md"], "README.md is no index of sources"),
        (["check", "nowhere", "README.md"], "nowhere cannot be read"),
        (["check", "a", "b", "c"], "3 paths are given, expected an index and a file"),
        (["check", "a", "b", "--exclude", "x"], "are for index"),
        (["check", "INDEX", "README.md", "--least-repeated", "5"], "least is 5, expected"),
    ],
)
def test_mistakes_are_told_of_in_a_line(
    arguments: list[str],
    told: str,
    index: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    words = [str(index) if word == "INDEX" else word for word in arguments]
    assert main(["attribution", *words]) == 2
    found = capsys.readouterr().err
    assert told in found
    assert found.count("\n") == 1
