"""Parquet in and out: the same rows as in JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import sc2onnx
from sc2onnx.batch import Completing, Infilling, Measures, Scoring
from sc2onnx.batch.evaluating import Evaluating
from sc2onnx.batch.output import folder_of
from sc2onnx.batch.records import Fields
from sc2onnx.batch.sources import Reader, input_files
from tests.batch.conftest import OPTIONS, done, job, read, rows, write

pa = pytest.importorskip("pyarrow", reason="needs the batch extra")
pq = pytest.importorskip("pyarrow.parquet", reason="needs the batch extra")


def parquet(path: Path, given: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(given), path, row_group_size=7)
    return path


def test_the_same_answers_as_of_json_lines(exact: sc2onnx.Model, tmp_path: Path) -> None:
    given = rows(20)
    given[3]["prompt"] = None
    done(exact, job(write(tmp_path / "a.jsonl", given), tmp_path / "a-out.jsonl"))
    done(exact, job(parquet(tmp_path / "b.parquet", given), tmp_path / "b-out.jsonl"))
    here, there = (read(tmp_path / name) for name in ("a-out.jsonl", "b-out.jsonl"))
    assert [{**row, "file": ""} for row in here] == [{**row, "file": ""} for row in there]


@pytest.mark.parametrize(
    "task",
    [
        Completing({**OPTIONS, "logprobs": True}),
        Infilling({"max_new_tokens": 3}),
        Scoring(),
        Scoring(logprobs=True),
        Evaluating(Measures()),
    ],
    ids=lambda task: type(task).__name__,
)
def test_output_has_the_rows_of_json_lines(exact: sc2onnx.Model, tmp_path: Path, task: Any) -> None:
    given = rows(12, text="x = 1\n", prefix="def f(", suffix="):\n    pass\n")
    given[5] = {"id": 5}
    path = write(tmp_path / "in.jsonl", given)
    for name in ("out.jsonl", "out.parquet"):
        again = type(task)(task.settings()) if isinstance(task, (Completing, Infilling)) else task
        assert done(exact, job(path, tmp_path / name, task=again)).errors == 1
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    lines = read(tmp_path / "out.jsonl")
    assert [row["id"] for row in table] == [str(row["id"]) for row in lines]
    filled = [
        {name: value for name, value in row.items() if value is not None and name != "id"}
        for row in table
    ]
    assert filled == [{name: value for name, value in row.items() if name != "id"} for row in lines]
    assert not (folder_of(tmp_path / "out.parquet") / "rows.jsonl").exists()


def test_parquet_output_that_was_broken_off_is_made_again(
    exact: sc2onnx.Model, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(
            "sc2onnx.batch.output.write_parquet",
            lambda *rest: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        with pytest.raises(KeyboardInterrupt):
            done(exact, job(source, out))
    assert not out.exists()
    monkeypatch.setattr(Completing, "begin", None)  # nothing is left to compute
    assert done(exact, job(source, out)).state == "done"
    assert len(pq.read_table(out)) == 30


def test_only_the_columns_that_are_asked_for_are_read(tmp_path: Path) -> None:
    given = [
        {"id": i, "content": f"x = {i}", "large": "y" * 100, "files": {"a.py": "z"}}
        for i in range(20)
    ]
    parquet(tmp_path / "a.parquet", given)
    reader = Reader(
        input_files([tmp_path / "a.parquet"], tmp_path / "o.jsonl"),
        Fields.of(("text", "files"), {"text": "content"}),
    )
    positions = list[float]()
    for number, record in enumerate(reader, 1):
        positions.append(reader.position)
        assert (record.number, record.id, record.fields) == (
            number,
            number - 1,
            {"text": f"x = {number - 1}", "files": {"a.py": "z"}},
        )
    assert positions == pytest.approx([i / 20 for i in range(1, 21)])


def test_maps_are_files_by_their_paths(tmp_path: Path) -> None:
    column = pa.array([[("a.py", "x"), ("b.py", "y")], []], type=pa.map_(pa.string(), pa.string()))
    pq.write_table(pa.table({"files": column}), tmp_path / "a.parquet")
    reader = Reader(
        input_files([tmp_path / "a.parquet"], tmp_path / "o.jsonl"), Fields.of(("files",), {})
    )
    assert [record.fields.get("files") for record in reader] == [{"a.py": "x", "b.py": "y"}, []]


def test_damage_is_an_error_in_its_place_and_other_files_go_on(tmp_path: Path) -> None:
    text = pa.array([b"good", b"\xff\xfe", b"fine"], type=pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    (tmp_path / "c.jsonl").write_text(json.dumps({"text": "c"}) + "\n")
    paths = [tmp_path / name for name in ("a.parquet", "b.parquet", "c.jsonl")]
    found = list(Reader(input_files(paths, tmp_path / "o.jsonl"), Fields.of(("text",), {})))
    assert [record.fields.get("text") for record in found] == ["good", None, "fine", None, "c"]
    assert "not UTF-8" in str(found[1].error)
    assert "cannot be read from here on as Parquet" in str(found[3].error)
