"""Whoever imports onnxruntime, the package or an example, turns its telemetry off before."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sc2onnx.runtime.ort.telemetry import VARIABLE

ROOT = Path(__file__).parent.parent.parent


def test_the_package_imports_it_in_one_place() -> None:
    importing = re.compile(r"^\s*(import|from) onnxruntime\b", re.MULTILINE)
    files = [
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "sc2onnx").rglob("*.py")
        if importing.search(file.read_text(encoding="utf-8"))
    ]
    assert files == ["sc2onnx/runtime/ort/library.py"]


@pytest.mark.parametrize(
    ("file", "loads"),
    [
        ("examples/genai/complete.py", "import onnxruntime_genai"),
        ("examples/optimum/complete.py", "import onnxruntime as ort"),
        ("examples/node/complete.mjs", "import ort from"),
        ("examples/cpp/starcoder2.cpp", "    complete(parse("),
        ("examples/rust/src/main.rs", "if let Err(message) = parse("),
        ("plugins/optimum/sc2onnx_optimum/__init__.py", "from sc2onnx_optimum.runtime"),
        ("sc2onnx/bundle/model_card.py", "import onnxruntime_genai"),
        ("sc2onnx/bundle/model_card.py", "from optimum.onnxruntime"),
    ],
)
def test_examples_turn_it_off_before_the_library_looks(file: str, loads: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    off = (
        "./telemetry.mjs"
        if file.endswith(".mjs")
        else "{_QUIET}"
        if file.endswith("card.py")
        else VARIABLE
    )
    assert 0 < text.index(off) < text.index(loads)
