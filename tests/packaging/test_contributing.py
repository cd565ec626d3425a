"""CONTRIBUTING.md, the releases' page and the index of decisions say what is there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

GUIDES = ("CONTRIBUTING.md", "SECURITY.md", "docs/releases/README.md", "docs/decisions/README.md")
MADE = ("dist/", "build/", ".venv", "docs/releases/VERSION.md")
"""Beginnings of paths that a clone does not have yet, or that stand for others."""


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def commands() -> Iterator[list[str]]:
    for block in re.findall(r"```bash\n(.*?)```", text("CONTRIBUTING.md"), re.DOTALL):
        yield from (shlex.split(line) for line in block.splitlines())


@pytest.mark.parametrize("guide", GUIDES)
def test_links_lead_somewhere(guide: str) -> None:
    links = re.findall(r"\]\((?!https:)([^)#]+)", text(guide))
    missing = [link for link in links if not (ROOT / guide).parent.joinpath(link).exists()]
    assert links
    assert not missing


@pytest.mark.parametrize("guide", GUIDES)
def test_paths_in_code_are_there(guide: str) -> None:
    """``NAME`` stands for a file that the reader adds."""
    named = [
        path
        for path in re.findall(r"`([\w.-]+/[\w./-]*|\w+\.(?:md|cff))`", text(guide))
        if "NAME" not in path and not path.startswith(MADE)
    ]
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing


def test_names_in_backticks_are_in_the_files_that_are_named_with_them() -> None:
    homes = {
        "_as_plain_numbers": "sc2onnx/runtime/choose/parameters.py",
        "available_instructions": "native/src/instructions.cpp",
        "drawing_options": "sc2onnx/cli/common_options.py",
        "GenerationOptions": "sc2onnx/runtime/options.py",
        "greedy": "sc2onnx/runtime/choose/sampling.py",
        "OPERATORS": "native/python/sc2onnx_kernels/__init__.py",
        "penalised": "sc2onnx/runtime/choose/sampling.py",
        "SamplingKeywords": "sc2onnx/runtime/choose/parameters.py",
        "surviving_weights": "sc2onnx/runtime/choose/weights.py",
    }
    for name, home in homes.items():
        assert re.search(rf"`(\w+\.)?{name}`", text("CONTRIBUTING.md")), name
        assert re.search(rf"\b{name}\b", text(home)), name


def test_every_target_of_make_is_there() -> None:
    named = set(
        re.findall(r"`make ([\w-]+)`", text("CONTRIBUTING.md") + text("docs/releases/README.md"))
    )
    assert {"test", "lint", "demo"} <= named
    phony = re.search(r"(?m)^\.PHONY: ((?:.*\\\n)*.*)$", text("Makefile"))
    assert phony is not None
    assert named <= set(phony[1].split())


def test_extras_are_declared() -> None:
    (extras,) = {word for words in commands() for word in words if word.startswith(".[")}
    for extra in extras.removeprefix(".[").removesuffix("]").split(","):
        assert re.search(rf"(?m)^{extra} = \[", text("pyproject.toml")), extra


def test_one_test_is_run_as_the_guide_says() -> None:
    """Each command collects tests; that of a single test is run."""
    given = [words[1:] for words in commands() if words[0].endswith("/pytest")]
    given += [words[2:] for words in commands() if words[0].startswith("SC2ONNX_FIXTURE=")]
    assert len(given) == 3
    for words in given:
        run(*words, "--collect-only")
    run(*next(words for words in given if "-k" in words))


def run(*words: str) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr  # 5: nothing was collected


def test_the_index_of_decisions_lists_every_one_with_its_title() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"(?m)^\| (\d+) \| \[(.*)\]\((.*)\) \|$", text("docs/decisions/README.md"))
    there = []
    for path in sorted(folder.glob("[0-9]*.md")):
        first = path.read_text(encoding="utf-8").splitlines()[0]
        title = re.fullmatch(r"# (\d+)\. (.*)", first)
        assert title is not None, first
        assert path.name.startswith(f"{int(title[1]):04}-"), path.name
        there.append((title[1], title[2], path.name))
    assert listed == there
