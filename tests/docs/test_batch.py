"""The commands of docs/batch.md, as they stand there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from sc2onnx.cli.main import main
from tests.conftest import ROOT
from tests.docs.pages import blocks

PAGE = ROOT / "docs" / "batch.md"


def test_the_commands_run_and_write_the_fields_that_are_listed(
    bundle: Path, tmp_path: Path
) -> None:
    page, found = PAGE.read_text(encoding="utf-8"), blocks(PAGE)
    (tmp_path / "rows.jsonl").write_text(
        "".join(each.code for each in found if each.language == "json")
    )
    commands = [line for each in found if not each.language for line in each.commands]
    assert len(commands) == 4
    listed = dict(
        re.findall(
            r"^\| `?(\w+)`?.*? \| (.*) \|$",
            page.split("## Output")[1].split("## Going on")[0],
            flags=re.MULTILINE,
        )
    )
    for command in commands:
        words = [str(bundle) if word == "BUNDLE" else word for word in shlex.split(command)[1:]]
        words = [str(tmp_path / word) if word.endswith(".jsonl") else word for word in words]
        assert main([*words, "--quiet"]) == 0
        task = words[words.index("--task") + 1]
        described = listed[
            "score" if task == "evaluate" else "complete" if task == "infill" else task
        ]
        for row in map(
            json.loads, Path(words[words.index("--output") + 1]).read_text().splitlines()
        ):
            extra = (
                {"token_ids", "logprobs"}
                if "--logprobs" in words
                else {"cut"}
                if task == "infill"
                else set()
            )
            fields = {
                name for name in re.findall(r"`(\w+)`", described) if name not in ("infill", "cut")
            }
            assert set(row) == {"id", "file", "row", *fields, *extra}
