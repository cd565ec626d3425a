"""Completions at the editor's cursor, by a model in the server's process."""

from __future__ import annotations

from pathlib import Path

import pytest
from lsprotocol import types

import sc2onnx
from tests.lsp.conftest import AUTOMATIC, Editor, editor, insert

pytestmark = pytest.mark.asyncio

BEFORE = 'import os\n\n\ndef add(a, b):\n    """Add."""\n    return '
AFTER = "\n\n\ndef sub(a, b):\n    return a - b\n"
LINE, CHARACTER = 5, 11


async def test_the_cursor_has_what_the_model_infills(bundle: Path, model: sc2onnx.Model) -> None:
    expected = model.infill(
        BEFORE, AFTER, path="src/a.py", order="spm", heal=True, ends="block"
    ).text
    assert expected.strip()
    async with editor(bundle) as one:
        result = await one.initialize()
        assert result.capabilities.inline_completion_provider == types.InlineCompletionOptions()
        uri = one.open("src/a.py", BEFORE + AFTER)
        await one.ready()
        [item] = await one.items(uri, LINE, CHARACTER)
        assert item.insert_text == expected
        place = types.Position(LINE, CHARACTER)
        assert item.range == types.Range(place, place)
        assert one.told == []
        assert await one.end() == 0


async def test_edits_positions_and_neighbours(bundle: Path, model: sc2onnx.Model) -> None:
    """Positions count in UTF-16, and lines end at line breaks only, not
    at form feeds as in Python.
    """
    code = "s = '😋'\x0c; t = "
    async with editor(bundle, "--neighbours", "2") as one:
        await one.initialize()
        old = one.open("old.py", "OLD = 1\n")
        one.open("not_taken.py", "X = 1\n")
        new = one.open("lib/new.py", "NEW = 2\r\n")
        uri = one.open("main.py", "s = ''\x0c; t = \n")
        one.change(uri, insert(0, 5, "😋"))
        one.change(old, insert(1, 0, "OLDER = '😋'\n"))
        await one.ready()
        files = {"lib/new.py": "NEW = 2\n", "old.py": "OLD = 1\nOLDER = '😋'\n"}
        expected = model.infill(
            code, "\n", path="main.py", files=files, order="spm", heal=True, ends="block"
        ).text
        [item] = await one.items(uri, 0, len(code) + 1)
        assert item.insert_text == expected
        one.close(new)
        one.change(uri, insert(0, len(code) + 1, "x"))
        files = {"not_taken.py": "X = 1\n", "old.py": "OLD = 1\nOLDER = '😋'\n"}
        expected = model.infill(
            code, "x\n", path="main.py", files=files, order="spm", heal=True, ends="line"
        ).text
        [item] = await one.items(uri, 0, len(code) + 1)  # text follows on the line
        assert item.insert_text == expected
        assert "\n" not in expected


async def test_what_is_selected_in_the_list_is_gone_on_from(
    bundle: Path, model: sc2onnx.Model
) -> None:
    async with editor(bundle) as one:
        await one.initialize()
        uri = one.open("a.py", "import os\n\nos.pa\n")
        await one.ready()
        place = types.Range(types.Position(2, 3), types.Position(2, 5))
        [item] = await one.items(
            uri, 2, 5, selected=types.SelectedCompletionInfo(place, "path.join("), trigger=AUTOMATIC
        )
        more = model.infill(
            "import os\n\nos.path.join(", "\n", path="a.py", order="spm", heal=True, ends="block"
        ).text
        assert item.insert_text == "path.join(" + more
        assert item.range == place


@pytest.mark.parametrize("mode", ["line", "block", "free"])
async def test_modes_and_lengths(bundle: Path, model: sc2onnx.Model, mode: str) -> None:
    ends = None if mode == "free" else mode
    expected = model.infill(
        BEFORE,
        "",
        path="a.py",
        order="spm",
        heal=True,
        ends=ends,  # type: ignore[arg-type]
        max_new_tokens=24,
    ).text
    async with editor(bundle, "--mode", "free", "--max-tokens", "9") as one:
        await one.initialize({"mode": mode, "maxTokens": 24})
        uri = one.open("a.py", BEFORE)
        await one.ready()
        [item] = await one.items(uri, LINE, CHARACTER)
        assert item.insert_text == expected


async def test_wrong_options_are_told_of_and_the_others_hold(
    bundle: Path, model: sc2onnx.Model
) -> None:
    async with editor(bundle) as one:
        await one.initialize({"maxTokens": 4, "mode": "lines", "timeout": "soon", "tokens": 3})
        uri = one.open("a.py", BEFORE)
        await one.ready()
        told = "\n".join(one.told)
        assert (
            "mode is 'lines', expected 'auto', 'line', 'block' or 'free'; it is left as it was"
            in told
        )
        assert "timeout is 'soon', expected seconds" in told
        assert "there is no option 'tokens', expected maxTokens, mode, timeout, neighbours" in told
        [item] = await one.items(uri, LINE, CHARACTER)
        assert (
            item.insert_text
            == model.infill(
                BEFORE, "", path="a.py", order="spm", heal=True, ends="block", max_new_tokens=4
            ).text
        )


async def test_nothing_to_go_by_gives_nothing(bundle: Path) -> None:
    async with editor(bundle) as one:
        await one.initialize()
        uri = one.open("empty.py", "")
        await one.ready()
        assert not await one.items(uri, 0, 0)


async def test_two_documents_are_completed_beside_each_other(
    bundle: Path, model: sc2onnx.Model
) -> None:
    async with editor(bundle, "--neighbours", "0") as one, editor(bundle) as other:
        expected = [
            model.infill(text, "", path="a.py", order="spm", heal=True, ends="block").text
            for text in ("x = [", "y = {1: ")
        ]
        for each, text, wanted in ((one, "x = [", expected[0]), (other, "y = {1: ", expected[1])):
            assert isinstance(each, Editor)
            await each.initialize(progress=False)
            uri = each.open("a.py", text)
            await each.ready()
            [item] = await each.items(uri, 0, len(text))
            assert item.insert_text == wanted
