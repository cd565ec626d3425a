"""``sc2onnx adapter``, and ``--adapter`` of the commands that run a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sc2onnx.runtime.loading import load
from tests.adapters import random_adapter
from tests.cli.test_cli import refused, sc2onnx, succeeded

PROMPT = "import os\n\nfor name in "


@pytest.fixture(scope="module")
def adapter(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    facts = load(bundle).manifest.model
    return random_adapter(tmp_path_factory.mktemp("adapters") / "sql", facts, 8, seed=1)


def test_generate_and_batch_run_with_an_adapter(
    bundle: Path, adapter: Path, tmp_path: Path
) -> None:
    model = load(bundle)
    model.load_adapter(adapter)
    expected = model.generate(PROMPT, adapter="sql", max_new_tokens=8).text
    assert expected != model.generate(PROMPT, max_new_tokens=8).text
    how = ("--max-new-tokens", "8", "--adapter", adapter)
    assert succeeded(sc2onnx("generate", bundle, PROMPT, *how, directory=tmp_path)) == expected
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": PROMPT}) + "\n")
    job = ("batch", bundle, "in.jsonl", "--output", "out.jsonl")
    succeeded(sc2onnx(*job, *how, directory=tmp_path))
    assert json.loads((tmp_path / "out.jsonl").read_text())["text"] == expected
    message = refused(sc2onnx(*job, "--max-new-tokens", "8", directory=tmp_path))
    assert "begun with other settings: adapters" in message


def test_info_says_what_an_adapter_is(adapter: Path, tmp_path: Path) -> None:
    found = json.loads(succeeded(sc2onnx("adapter", "info", adapter, "--json", directory=tmp_path)))
    assert (found["rank"], found["element"]) == (8, "float32")
    shown = succeeded(sc2onnx("adapter", "info", adapter, directory=tmp_path))
    assert "a model that it does not name" in shown


def test_mistakes_are_one_line(bundle: Path, adapter: Path, tmp_path: Path) -> None:
    told = refused(sc2onnx("generate", bundle, "x", "--adapter", "absent", directory=tmp_path))
    assert "absent is no converted adapter" in told
    told = refused(sc2onnx("adapter", "info", "absent", directory=tmp_path))
    assert "sc2onnx adapter convert PEFT_DIR absent" in told
    assert "there is no OUT" in refused(sc2onnx("adapter", "convert", "x", directory=tmp_path))
    told = refused(sc2onnx("adapter", "info", adapter, "out", directory=tmp_path))
    assert "info takes a directory alone" in told
