"""Rows, files of them, and a model in int8, whose numbers do not depend
on what is computed beside.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

import sc2onnx
from sc2onnx.batch import Completing, Job, run
from sc2onnx.batch.checkpoint import Checkpoint

Row = dict[str, Any]

OPTIONS: Mapping[str, Any] = {"max_new_tokens": 6, "temperature": 0.8, "seed": 3}


@pytest.fixture(scope="session")
def exact(int8_bundle: Path) -> sc2onnx.Model:
    return sc2onnx.load(int8_bundle, max_batch=4)


def rows(count: int, **more: Any) -> list[Row]:
    return [
        {"id": f"r{i}", "prompt": f"def f_{i}(n):\n    return n *", **more} for i in range(count)
    ]


def write(path: Path, lines: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def job(source: Path, out: Path, **more: Any) -> Job:
    task = more.pop("task", None) or Completing(OPTIONS)
    return Job([source], out, task, **more)


def done(model: sc2onnx.Model, given: Job, **more: Any) -> Checkpoint:
    return run(lambda: model, given, **more)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "in.jsonl", rows(30))
