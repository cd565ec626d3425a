from __future__ import annotations

import ast
import queue
import textwrap
from pathlib import Path

import pytest

from sc2onnx.errors import RequestError
from sc2onnx.evaluate.suite.cutting import check, cut, places
from sc2onnx.evaluate.suite.hole import CUT, Hole, Task
from sc2onnx.evaluate.text import Document

QUEUE = Document("queue.py", Path(queue.__file__).read_text(encoding="utf-8"))


@pytest.mark.parametrize("task", CUT)
def test_holes_and_what_is_around_them_are_the_file(task: Task) -> None:
    holes = places(QUEUE, task)
    assert len(holes) >= 20
    for hole in holes:
        assert hole.prefix + hole.truth + hole.suffix == QUEUE.text
        assert hole.prefix == hole.prefix.rstrip()  # no prompt ends with space
        parsed(hole)


def parsed(hole: Hole) -> None:
    """Whether a hole is what its task says, by the parser."""
    if hole.task == "expressions":
        assert isinstance(ast.parse(hole.truth.strip(), mode="eval"), ast.Expression)
        return
    body = ast.parse(f"def f():\n while 1:\n{textwrap.indent(shifted(hole), '  ')}").body[0]
    assert isinstance(body, ast.FunctionDef)
    inner = body.body[0]
    assert isinstance(inner, ast.While)
    lines = hole.truth.strip("\n").count("\n") + 1
    assert (len(inner.body), lines) == (1, 1) if hole.task == "lines" else 2 <= lines <= 8


def shifted(hole: Hole) -> str:
    return textwrap.dedent(hole.truth.lstrip("\n"))


def test_columns_count_characters_and_lines_are_the_parsers() -> None:
    text = 'name = "äöü€"; other = compute("ä", value + 1)\r\nif ready:\r\n    finish(name)\r\n'
    for task, truth in (("expressions", "value + 1"), ("lines", "\r\n    finish(name)")):
        found = [hole.truth.removeprefix(" ") for hole in places(Document("f.py", text), task)]  # type: ignore[arg-type]
        assert truth in found


def test_nothing_is_cut_out_of_an_f_string() -> None:
    text = 'print(f"{compute(value + 1)} and {other[index + 2]}")\n'
    assert places(Document("f.py", text), "expressions") == []


def test_docstrings_and_short_lines_are_not_asked_for() -> None:
    text = 'def f():\n    """What it does."""\n    pass\n    x = 1\n    return compute(x)\n'
    assert [hole.truth for hole in places(Document("f.py", text), "lines")] == [
        "\n    return compute(x)"
    ]


def test_the_seed_decides() -> None:
    assert cut([QUEUE], "lines", 20, 1) == cut([QUEUE], "lines", 20, 1)
    assert cut([QUEUE], "lines", 20, 1) != cut([QUEUE], "lines", 20, 2)


def test_files_that_are_no_python_are_left_out_by_name() -> None:
    other = Document("main.rs", "fn main() { let x = 1; }")
    with pytest.warns(UserWarning, match=r"main\.rs: no code that this Python parses"):
        check([QUEUE, other])
    assert {hole.file for hole in cut([QUEUE, other], "lines", 30, 0)} == {"queue.py"}
    with pytest.raises(
        RequestError, match="0 places for the task 'blocks', --questions asks for 5"
    ):
        cut([other], "blocks", 5, 0)
    deep = Document("deep.py", "x = " + "(" * 5000 + ")" * 5000)
    assert places(deep, "lines") == []
