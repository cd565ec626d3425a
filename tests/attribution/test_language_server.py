"""The language server writes into the editor's log what completions repeat."""

from __future__ import annotations

from pathlib import Path

import pytest

import sc2onnx
from sc2onnx.attribution import Index
from tests.attribution.conftest import PROMPT, TOKENS
from tests.lsp.conftest import editor


@pytest.mark.asyncio
async def test_the_log_names_the_files_that_a_completion_repeats(
    bundle: Path, model: sc2onnx.Model, tmp_path: Path
) -> None:
    text = model.infill(PROMPT, "", path="a.py", order="spm", heal=True, max_new_tokens=TOKENS).text
    (tmp_path / "copy.py").write_text(text)
    index = Index.build([tmp_path / "copy.py"], tmp_path / "i")
    asked = ("--attribution", index.path, "--least-repeated", "23")
    async with editor(bundle, "--mode", "free", "--max-tokens", TOKENS, *asked) as marking:
        await marking.initialize()
        await marking.ready()
        uri = marking.open("a.py", PROMPT)
        (item,) = await marking.items(uri, 1, 0)
        assert item.insert_text == text
        notes = [each.message for each in marking.client.log_messages]
        (note,) = [each for each in notes if "repeat" in each]
        assert f"repeat {tmp_path}/copy.py, line" in note
        assert uri.endswith("/a.py")
        assert "/a.py, characters " in note
        assert await marking.end() == 0
