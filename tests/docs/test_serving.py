"""The table of the server's configuration, compared with the record and with the flags."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from sc2onnx.cli.options import parser
from sc2onnx.serve.configuration import Configuration
from tests.conftest import ROOT


def rows() -> list[tuple[str, str, str]]:
    """Key, default and flags of each row."""
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    section = page.split("### Configuration", 1)[1].split("\n### ", 1)[0]
    return re.findall(r"^\| `(\w+)` \| `(.*?)` \| (.*?) \|", section, re.MULTILINE)


def test_every_key_is_listed_with_its_default() -> None:
    usual = Configuration()
    expected = {each.name: _as_toml(getattr(usual, each.name)) for each in fields(Configuration)}
    assert {key: default for key, default, _ in rows()} == expected


def test_the_flags_of_the_table_are_those_of_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["serve", "--help"])
    told = set(re.findall(r"(?m)^  (?:-h, )?(--[a-z-]+)", capsys.readouterr().out))
    listed = {flag for _, _, flags in rows() for flag in re.findall(r"--[a-z-]+", flags)}
    assert told - listed == {"--help", "--config", "--check", "--alias"}
    assert listed <= told


def _as_toml(value: object) -> str:
    if isinstance(value, tuple | dict):
        return "[]" if isinstance(value, tuple) else "{}"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return f'"{value}"' if isinstance(value, str) else str(value)
