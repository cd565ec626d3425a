"""The example that trains an adapter, as its page has it: what it leaves is exported."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("peft")

from sc2onnx.export import export
from tests.conftest import ROOT

pytestmark = pytest.mark.torch


def test_what_the_example_trains_is_merged(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = str(ROOT / "examples" / "fine-tune" / "train.py")
    words = [script, str(base), str(tmp_path / "lora"), script, "--steps", "3"]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(script, run_name="__main__")  # another process would import torch again
    lines = capsys.readouterr().out.splitlines()
    losses = [float(line.split()[-1]) for line in lines if "loss" in line]
    assert len(losses) == 3
    export(base, tmp_path / "plain")
    manifest = export(base, tmp_path / "tuned", adapters=[tmp_path / "lora"])
    assert str(manifest.provenance.adapters[0]) == "lora (LoRA)"
    data = "model.onnx.data"
    assert (tmp_path / "plain" / data).read_bytes() != (tmp_path / "tuned" / data).read_bytes()
