"""Jobs over rows that Ray Data reads."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is installed in an environment of its own: make ray")

import ray

import sc2onnx
from sc2onnx.batch import Completing, Evaluating, Measures
from sc2onnx.errors import RequestError
from sc2onnx_ray.data import Job, results, run
from tests.plugins.ray.conftest import Cluster

COUNT = 24


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    made = [
        {"id": f"row {n}", "prompt": f"def add_{n}(a, b):\n", "text": f"x = {n}\n" * 9}
        for n in range(COUNT)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def job(bundle: Path, parts: Path, **more: Any) -> Job:
    task = partial(Completing, {"max_new_tokens": 6})
    return Job(
        **{"bundle": str(bundle), "task": task, "parts": parts, "cores": 0.25, "rows": 4, **more}
    )


@pytest.fixture
def reading(cluster: Cluster, rows: Path) -> Any:
    cluster.deploy(1)  # room for others
    return ray.data.read_json(str(rows), lines=True)


def test_rows_are_completed_once_each_and_a_job_goes_on(
    reading: Any, bundle: Path, model: sc2onnx.Model, tmp_path: Path
) -> None:
    wanted = job(bundle, tmp_path / "out", engines=2)
    assert run(reading, wanted) == {"rows": COUNT, "errors": 0}
    found = {row["id"]: row for row in results(wanted.parts)}
    alone = model.generate("def add_3(a, b):\n", max_new_tokens=6).text
    assert len(found) == COUNT
    assert found["row 3"]["text"] == alone
    lost = sorted(wanted.parts.glob("part-*"))[0]
    missing = len(lost.read_text().splitlines())
    lost.unlink()
    assert run(reading, wanted) == {"rows": missing, "errors": 0}
    assert sorted(row["id"] for row in results(wanted.parts)) == sorted(found)


def test_a_batch_that_is_computed_twice_counts_once(
    reading: Any, bundle: Path, tmp_path: Path
) -> None:
    wanted = job(bundle, tmp_path / "out")
    run(reading.limit(4), wanted)
    (part,) = wanted.parts.glob("part-*")
    (wanted.parts / "part-again.jsonl").write_text(part.read_text())
    assert len(list(results(wanted.parts))) == 4


def test_files_are_evaluated_in_batch_after_batch(
    reading: Any, bundle: Path, tmp_path: Path
) -> None:
    wanted = job(bundle, tmp_path / "out", task=partial(Evaluating, Measures()))
    assert run(reading.limit(8), wanted) == {"rows": 8, "errors": 0}
    assert all(row["nll"] > 0 for row in results(wanted.parts))


def test_what_is_wrong_is_told(reading: Any, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="rows have no name"):
        run(reading, job(bundle, tmp_path / "out", renamed={"id": "name"}))
    run(reading.limit(4), job(bundle, tmp_path / "out"))
    with pytest.raises(RequestError, match="parts of another job"):
        run(reading, job(bundle, tmp_path / "out", task=partial(Completing, {"max_new_tokens": 7})))
