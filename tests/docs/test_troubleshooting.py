"""The messages of docs/troubleshooting.md are messages of the program."""

from __future__ import annotations

import ast
import re

from tests.conftest import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
OTHERS = {"pip install ./native", "config.json", "verify", "OutOfMemoryError", "Loading model"}
"""Headings that name a program or an error, or are no message of the package's Python."""


def texts() -> str:
    """Every literal of the package, with what is filled in as a null."""
    found = []
    for path in (ROOT / "sc2onnx").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    each.value if isinstance(each, ast.Constant) else "\0" for each in node.values
                ]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_every_message_is_one_that_occurs() -> None:
    heads = re.findall(r"^### (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    messages = [text for head in heads for text in re.findall(r"`([^`]+)`", head)]
    said = texts()
    checked = 0
    for message in messages:
        if message in OTHERS:
            continue
        for part in re.split(r"\w+\.json|[A-Z]{2,}[/A-Z]*|\b[A-Z]\b|\.\.\.|'[^']*'|\d+", message):
            if len(part.strip(" :,")) >= 8:
                assert part.strip(" :,") in said, f"{message}: {part}"
                checked += 1
    assert checked > 25


def test_every_entry_says_what_to_do() -> None:
    entries = re.split(r"^### ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert [entry.splitlines()[0] for entry in entries if "**Do**" not in entry] == []
