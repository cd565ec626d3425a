"""The programs of the documents, copied from each page as a new user would, beside ``examples``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sc2onnx.cli.options import parser
from tests.conftest import ROOT
from tests.docs.pages import PAGES, blocks, commands_of_ours

RUN = {
    "get-started": (),
    "export": (),
    "choose-a-precision": (),
    "verify": ("passed",),
    "gpu": ("passed",),
    "runtimes": ("passed",),
    "evaluation": (),
    "attribution": ("examples/complete.py 1",),
    "benchmark": (),
    "constrained": ("block", "balanced"),
    "runtime": ("MemoryFootprint(weights=",),
    "fine-tunes": (),
    "errors": ("expected 0 (greedy) or more",),
}
"""Pages that are run, and what they must print."""

ELSEWHERE = {
    "batch": "tests/docs/test_batch.py",
    "command-line": "what it has is made from the parser",
    "deploy": "tests/deploy; it needs other machines",
    "embedding": "tests/docs/test_embedding.py",
    "language-server": "tests/lsp; a language server ends when its editor does",
    ("serving"): (
        "tests/serve, tests/clients; a server runs on, and Docker and systemd are the system's"
    ),
    "sizing": "it needs machines of other sizes",
}
"""Pages with programs that are tried elsewhere, or cannot be."""

CANNOT = re.compile(
    r"pip install|python3? |sc2onnx (serve|lsp)\b|make bench|bigcode/|[A-Z]{5,}|\bcuda:0|"
    r"/usr/bin/time|bench int4|evaluate fp32 code|evaluate bundle-int4|export "
    r"checkpoint|sc2onnx doctor|BENCHFLAGS|sql-adapter|llama-server|--server |code/\*|held_out/\*"
)
"""What a command has that cannot run here: the network, a GPU, hours, a name to be filled in."""


def script(page: Path) -> str:
    """The commands of a page, and then its Python, as one script for bash."""
    ours = [line for block in blocks(page) if not block.language for line in block.commands]
    lines = ["set -euo pipefail", f"sc2onnx() {{ '{sys.executable}' -m sc2onnx \"$@\"; }}", *ours]
    return "\n".join([*lines, f"'{sys.executable}' page.py"])


@pytest.mark.torch
@pytest.mark.parametrize("name", RUN)
def test_a_page_works_from_top_to_bottom(name: str, bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx_ir", reason="needs the export extra")
    pytest.importorskip("torch", reason="needs the verify extra")
    page = ROOT / "docs" / f"{name}.md"
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    if not any(words[0] == "export" for words in commands_of_ours(page)):
        (tmp_path / "mini").symlink_to(bundle)
    python = [block.code for block in blocks(page) if block.language == "python"]
    (tmp_path / "page.py").write_text("\n".join(python), encoding="utf-8")
    run = subprocess.run(
        ["bash", "-c", script(page)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env=os.environ,
    )
    assert run.returncode == 0, run.stderr
    assert all(text in run.stdout for text in RUN[name])


def test_every_page_with_programs_is_run_or_says_why_not() -> None:
    known = {*RUN, *ELSEWHERE, "README"}
    with_programs = {
        page.stem
        for page in PAGES
        if any(block.language in ("", "python") for block in blocks(page))
    }
    assert with_programs <= known, "add the page to RUN, or to ELSEWHERE with a reason"


def test_what_is_marked_as_not_run_cannot_run() -> None:
    run = [
        (page.stem, line)
        for page in PAGES
        for block in blocks(page)
        if block.language == "sh"
        for line in block.commands
        if not line.startswith(" ") and not CANNOT.search(line)
    ]
    assert run == [], "leave the language of the block out, so that it is run"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_is_one_that_the_command_line_takes(page: Path) -> None:
    for words in commands_of_ours(page):
        try:
            parser().parse_args(words)
        except SystemExit:
            pytest.fail(f"{page.name}: sc2onnx {' '.join(words)}")
