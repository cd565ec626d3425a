"""The README's commands and code, copied one after another as a new user would,
beside a clone's ``examples``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx_ir", reason="needs the export extra")

ROOT = Path(__file__).parent.parent.parent


def blocks(language: str) -> list[str]:
    """Fenced code of one language."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [
        code
        for found, code in re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
        if found == language
    ]


def test_the_readme_works_from_top_to_bottom(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    commands = [line for block in blocks("") for line in block.splitlines()]
    ours = [line for line in commands if re.match(r"(cat .*\| )?sc2onnx ", line)]
    others = [
        line
        for line in commands
        if line not in ours and not line.startswith(("pip install ", "make ", "python3 -m venv "))
    ]
    assert others == []  # nothing that this test would pass over unseen
    assert {line.split("sc2onnx ")[1].split()[0] for line in ours} == {
        "doctor",
        "export",
        "generate",
        "infill",
    }
    (tmp_path / "readme.py").write_text("\n".join(blocks("python")))
    script = "\n".join(
        [
            "set -euo pipefail",
            f"sc2onnx() {{ '{sys.executable}' -m sc2onnx \"$@\"; }}",
            *ours,
            f"'{sys.executable}' readme.py",
        ]
    )
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr


def test_every_link_of_the_documentation_leads_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    links = [
        (page, link)
        for page in pages
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    ]
    assert len(links) > 5
    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []
