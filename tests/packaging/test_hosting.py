"""Files that a public host and pre-commit read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_workflow_has_the_hosts_form() -> None:
    """By the schema that check-jsonschema carries, so that no network is needed."""
    pytest.importorskip("check_jsonschema", reason="pip install check-jsonschema")
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
        str(WORKFLOW),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflow_runs_what_everybody_runs_and_may_only_read() -> None:
    workflow = read(WORKFLOW)
    assert workflow["permissions"] == {"contents": "read"}
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    assert commands == [".ci/run", "scripts/release --rehearsal"]
    for command in commands:
        path = ROOT / command.split()[0]
        assert path.stat().st_mode & 0o111, f"{path} cannot be executed"
    for action in (step["uses"] for step in steps if "uses" in step):
        name, version = action.split("@")
        assert name.startswith("actions/")
        assert version[0] == "v"
        assert version[1:].isdigit()


def test_forms_for_issues_ask_for_something() -> None:
    forms = [
        path
        for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")
        if path.stem != "config"
    ]
    assert len(forms) == 2
    for path in forms:
        form = read(path)
        assert {"name", "description", "body"} <= form.keys()
        identifiers = [part["id"] for part in form["body"]]
        assert len(identifiers) == len(set(identifiers))
        assert any(part.get("validations", {}).get("required") for part in form["body"]), path


def test_hooks_are_local_and_their_tools_come_with_the_extra() -> None:
    extras = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (repository,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    packages = {"lint-imports": "import-linter"}
    for hook in repository["hooks"]:
        tool = hook["entry"].split()[0]
        assert hook["language"] == "system"
        assert f'"{packages.get(tool, tool)}>=' in extras, tool


def test_the_citation_names_the_model_and_its_licence() -> None:
    """Its form is that of cff-version 1.2.0: the keys that it requires."""
    citation = read(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert str(citation["cff-version"]) == "1.2.0"
    assert citation["license"] == "Apache-2.0"
    assert "OpenRAIL-M" in citation["abstract"]
    titles = [reference["title"] for reference in citation["references"]]
    assert titles[0].startswith("StarCoder 2")
    for entry in [citation, *citation["references"]]:
        assert all(
            "name" in author or {"family-names", "given-names"} <= author.keys()
            for author in entry["authors"]
        )
