"""``sc2onnx batch --attribution``: the field of each row, and what a job depends on."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

import sc2onnx
from sc2onnx.attribution import Index
from sc2onnx.cli.main import main

PROMPT = "for i in range(10):\n"
HOW = ["--max-tokens", "64", "--least-repeated", "30", "--quiet"]


@pytest.fixture(scope="module")
def text(model: sc2onnx.Model) -> str:
    return model.generate(PROMPT, max_new_tokens=64).text


@pytest.fixture(scope="module")
def index(text: str, tmp_path_factory: pytest.TempPathFactory) -> Index:
    root = tmp_path_factory.mktemp("copied")
    (root / "copy.py").write_text(f"name = 1\n\n{text}\nother = 2\n")
    return Index.build([root / "copy.py"], root / "copied.index")


@pytest.fixture
def job(bundle: Path, tmp_path: Path) -> list[str]:
    """Of a row that repeats, one that does not, and one that has it in its prompt."""
    inputs = tmp_path / "in.jsonl"
    rows = [PROMPT, "import os\n"]
    inputs.write_text("".join(json.dumps({"prompt": each}) + "\n" for each in rows))
    return ["batch", str(bundle), str(inputs), *HOW, "--output"]


def test_each_row_says_what_it_repeats(
    job: list[str], index: Index, text: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    assert main([*job, str(out), "--attribution", str(index.path)]) == 0
    first, second = map(json.loads, out.read_text().splitlines())
    assert first["text"] == text
    (match,) = first["attribution"]
    assert match["sources"][0]["file"].endswith("copy.py")
    assert match["sources"][0]["line"] >= 3
    assert second["attribution"] == []
    if find_spec("pyarrow"):
        import pyarrow.parquet as pq

        table = tmp_path / "out.parquet"
        assert main([*job, str(table), "--attribution", str(index.path)]) == 0
        column = pq.read_table(table).column("attribution").to_pylist()
        assert [json.loads(each) for each in column] == [[match], []]


def test_what_stands_in_the_row_itself_is_not_told(
    bundle: Path, index: Index, text: str, tmp_path: Path
) -> None:
    row = {"prefix": PROMPT, "suffix": "", "files": {"a.py": text}}
    found = []
    for files in ({"a.py": text}, {}):
        (tmp_path / "in.jsonl").write_text(json.dumps({**row, "files": files}) + "\n")
        out = tmp_path / f"{len(files)}.jsonl"
        job = ["batch", str(bundle), str(tmp_path / "in.jsonl"), "--task", "infill", *HOW]
        assert main([*job, "--output", str(out), "--attribution", str(index.path)]) == 0
        found.append(json.loads(out.read_text())["attribution"])
    assert found[0] == []
    assert isinstance(found[1], list)


def test_a_job_goes_on_with_the_same_index_alone(
    job: list[str], index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out.jsonl")
    assert main([*job, out, "--attribution", str(index.path)]) == 0
    assert main([*job, out]) == 2
    assert "attribution: index" in capsys.readouterr().err
    assert main([*job, out, "--task", "score", "--attribution", str(index.path)]) == 2
    assert "--attribution is for complete and infill" in capsys.readouterr().err


def test_without_an_index_nothing_is_said(job: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert main([*job, str(out)]) == 0
    assert "attribution" not in out.read_text()
