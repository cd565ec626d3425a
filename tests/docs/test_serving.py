"""The table of the server's configuration, compared with the record that the server reads."""

from __future__ import annotations

import re
from dataclasses import fields

from sc2onnx.serve.configuration import Configuration
from tests.conftest import ROOT


def test_the_documentation_lists_every_key_with_its_default() -> None:
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| `(.*?)` \|", page, re.MULTILINE))
    usual = Configuration()
    assert rows == {each.name: _as_toml(getattr(usual, each.name)) for each in fields(Configuration)}


def _as_toml(value: object) -> str:
    if isinstance(value, tuple | dict):
        return "[]" if isinstance(value, tuple) else "{}"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return f'"{value}"' if isinstance(value, str) else str(value)
