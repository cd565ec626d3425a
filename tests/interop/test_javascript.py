"""The Node.js example as its user runs it, and the page in a browser: text, infilling, errors."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx_ir", reason="exports bundles: install the export extra")

import runtimes
import sc2onnx
from installed import ROOT, MissingError
from interop import bundle_for

PREFIX, SUFFIX = "def add(a, b):\n    ", "\n\nprint(add(1, 2))\n"


@pytest.fixture(scope="module")
def int4(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_for(checkpoint, "cpu", "int4", tmp_path_factory.mktemp("int4"))


def run(
    prepare: Callable[[], list[str]], *arguments: object, code: int = 0, stdin: str | None = None
) -> str:
    """What an example prints, or says where it fails; skipped where it cannot be had."""
    try:
        command = prepare()
    except MissingError as reason:
        pytest.skip(str(reason))
    done = subprocess.run(
        [*command, *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


node = partial(run, runtimes.node)


def page(*arguments: object) -> Any:
    """What the page did, driven by its own script."""
    return json.loads(run(runtimes.web, *arguments))


@pytest.fixture(scope="module")
def ours(bundle: Path) -> sc2onnx.Model:
    return sc2onnx.load(bundle, speculate=False)


@pytest.mark.parametrize("prompt", ["def fib(n):", "# naïve café → 日本語 🙂\n", "x = 1\n" * 300])
def test_text(bundle: Path, ours: sc2onnx.Model, prompt: str) -> None:
    """Tokenised and put together as here, halves of characters included."""
    expected = ours.generate(prompt, max_new_tokens=40).text
    assert node(bundle, "-", "--max-new-tokens", 40, stdin=prompt).removesuffix("\n") == expected


def test_infilling(bundle: Path, ours: sc2onnx.Model) -> None:
    expected = ours.infill(prefix=PREFIX, suffix=SUFFIX, max_new_tokens=40)
    found = json.loads(node(bundle, PREFIX, "--suffix", SUFFIX, "--max-new-tokens", 40, "--json"))
    assert found["text"] == expected.text


def test_node_says_what_is_wrong(bundle: Path, tmp_path: Path) -> None:
    assert "is not a bundle" in node(tmp_path, "x", code=2)
    assert node(code=2).startswith("usage: ")
    assert "token id 99999, expected 0 to 4095" in node(bundle, "--ids", "99999", code=2)
    manifest = json.loads((bundle / "sc2onnx.json").read_text())
    manifest["cache"]["kind"] = "linear"
    (tmp_path / "sc2onnx.json").write_text(json.dumps(manifest))
    line = node(tmp_path, "x", code=2)
    assert "expected a ring in float32: export it with --target cpu or portable" in line
    assert line.count("\n") == 1


def test_the_page_completes_what_is_typed(bundle: Path, ours: sc2onnx.Model) -> None:
    expected = ours.generate("def fib(n):", max_new_tokens=32).text
    found = page(
        bundle,
        "--type",
        "def fib(n):",
        "--max-new-tokens",
        32,
        "--screenshot",
        ROOT / "build" / "interop" / "page.png",
    )
    assert found["suggestion"] == expected
    assert found["taken"] == "def fib(n):" + expected
    assert "tokens/s" in found["speed"]
    assert "fp32, on WebAssembly" in found["status"]
    assert (ROOT / "build" / "interop" / "page.png").stat().st_size > 10_000


def test_the_page_infills(bundle: Path, ours: sc2onnx.Model) -> None:
    expected = ours.infill(prefix=PREFIX, suffix=SUFFIX, max_new_tokens=32).text
    found = page(bundle, "--type", PREFIX, "--then", SUFFIX, "--max-new-tokens", 32)
    assert found["suggestion"] == expected
    assert found["taken"] == PREFIX + expected + SUFFIX


def test_the_page_runs_int4(int4: Path) -> None:
    """The first line as ours has it: kernels of WebAssembly round activations as well,
    but sum in another order.
    """
    ours = sc2onnx.load(int4, speculate=False, kernels="off")
    expected = ours.generate("def fib(n):", max_new_tokens=12).text
    found = page(int4, "--type", "def fib(n):", "--max-new-tokens", 12)
    assert found["suggestion"].split("\n")[:2] == expected.split("\n")[:2]
