"""Holes in files of Python, cut where its parser says that a line, an expression or a block is."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from sc2onnx.errors import RequestError
from sc2onnx.evaluate.suite.hole import Hole, Task
from sc2onnx.evaluate.text import Document

_LEAST: Final = 6
"""Visible characters of a hole: shorter ones are guessed by accident."""

_LONGEST: Final[dict[str, int]] = {"lines": 120, "expressions": 80, "blocks": 400}
"""Characters of a hole."""

_BLOCK_LINES: Final = (2, 8)

_EXPRESSIONS: Final = (
    ast.Attribute,
    ast.BinOp,
    ast.BoolOp,
    ast.Call,
    ast.Compare,
    ast.Dict,
    ast.IfExp,
    ast.List,
    ast.ListComp,
    ast.Set,
    ast.Subscript,
    ast.UnaryOp,
)
"""Kinds that are asked for. Names and constants are too short, or a matter of taste; a lambda and a
tuple without brackets end where nobody can tell.
"""

_WHOLE: Final[tuple[tuple[type[ast.AST], tuple[str, ...]], ...]] = (
    (ast.Call, ("args",)),
    (ast.keyword, ("value",)),
    (ast.List, ("elts",)),
    (ast.Assign, ("value",)),
    (ast.AugAssign, ("value",)),
    (ast.Return, ("value",)),
    (ast.If, ("test",)),
    (ast.While, ("test",)),
    (ast.For, ("iter",)),
    (ast.Subscript, ("slice",)),
)
"""Where an expression is whole: a comma, a bracket, a colon or the line's end ends it."""


def cut(documents: Sequence[Document], task: Task, count: int, seed: int) -> list[Hole]:
    """``count`` holes of a task, drawn evenly over all places in all files; the same for the same
    files and seed. Files that are no Python are left out, with a warning.

    Raises :class:`RequestError` if there are too few places.
    """
    found = [hole for document in documents for hole in places(document, task)]
    if len(found) < count:
        raise RequestError(
            f"the files have {len(found)} places for the task {task!r}, --questions asks for "
            f"{count}: ask for fewer, or add files of Python"
        )
    chosen = np.random.default_rng(seed).permutation(len(found))[:count]
    return [found[index] for index in chosen]


def places(document: Document, task: Task) -> list[Hole]:
    """Every hole of a file that a task may ask for, in the order of the file.

    A hole begins after the last visible character before it, so with the line break and the
    indentation of a line: byte-level tokenizers have space in the tokens of the words after it,
    and a prompt that ends with space is one that no model was trained on.
    """
    tree = _parsed(document)
    if tree is None:
        return []
    starts = _line_starts(document.text)
    holes = dict[tuple[int, int], Hole]()
    for first, last in _spans(tree, task):
        start = _offset(document.text, starts, first.lineno, first.col_offset)
        stop = _offset(document.text, starts, last.end_lineno or 0, last.end_col_offset or 0)
        before, after = document.text[:start].rstrip(), document.text[stop:]
        truth = document.text[len(before) : stop]
        if len(truth) <= _LONGEST[task] and _worth(truth, task):
            holes[len(before), stop] = Hole(task, document.name, before, truth, after)
    return [holes[place] for place in sorted(holes)]


def _worth(truth: str, task: Task) -> bool:
    """Whether a hole is long enough; one that begins on a new line follows no blank one, where
    nobody could know how many there are.
    """
    space = truth[: len(truth) - len(truth.lstrip())]
    return len("".join(truth.split())) >= _LEAST and space.count("\n") <= (task != "expressions")


def check(documents: Sequence[Document]) -> None:
    """Warn of files that are no Python, which are left out."""
    lacking = [document.name for document in documents if _parsed(document) is None]
    if lacking:
        shown = ", ".join(lacking[:5]) + (" and others" if len(lacking) > 5 else "")
        warnings.warn(f"{shown}: no code that this Python parses, the suite leaves it out")


def _parsed(document: Document) -> ast.Module | None:
    """The tree of a file; None where it is no Python, or too deep."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in strings: not ours to correct
        try:
            return ast.parse(document.text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


Located = ast.stmt | ast.expr


def _spans(tree: ast.Module, task: Task) -> Iterator[tuple[Located, Located]]:
    """First and last node of what a task may ask for."""
    for node in _walk(tree):
        if task == "expressions":
            yield from _expressions(node)
        for body in _bodies(node):
            if task == "lines":
                yield from ((found, found) for found in body if _is_line(found))
            elif task == "blocks" and not isinstance(node, ast.Module) and _is_block(body):
                yield body[0], body[-1]


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, but for what is inside f-strings: where that is, Python knows from
    3.12 on.
    """
    yield node
    if not isinstance(node, ast.JoinedStr):
        for child in ast.iter_child_nodes(node):
            yield from _walk(child)


def _expressions(node: ast.AST) -> Iterator[tuple[Located, Located]]:
    """Arguments, elements, conditions and right sides on one line."""
    for kind, fields in _WHOLE:
        if isinstance(node, kind):
            for found in (getattr(node, name) for name in fields):
                for inner in found if isinstance(found, list) else [found]:
                    if isinstance(inner, _EXPRESSIONS) and inner.lineno == inner.end_lineno:
                        yield inner, inner


def _bodies(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """Its lists of statements, without docstrings."""
    for name in ("body", "orelse", "finalbody"):
        body = getattr(node, name, None)
        if isinstance(body, list) and body:
            kept = [found for found in body if not _is_text(found)]
            if kept:
                yield kept


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_line(node: ast.stmt) -> bool:
    return node.lineno == node.end_lineno and not isinstance(node, ast.Pass)


def _is_block(body: Sequence[ast.stmt]) -> bool:
    lines = (body[-1].end_lineno or 0) - body[0].lineno + 1
    least, most = _BLOCK_LINES
    return least <= lines <= most and len({found.lineno for found in body}) == len(body)


def _line_starts(text: str) -> list[int]:
    r"""Where lines begin. The parser counts ``\n``, ``\r\n`` and ``\r``, and no other break."""
    starts, at = [0], 0
    while at < len(text):
        at += 2 if text.startswith("\r\n", at) else 1
        if text[at - 1] in "\r\n":
            starts.append(at)
    return starts


def _offset(text: str, starts: Sequence[int], line: int, column: int) -> int:
    """Characters before a place; the parser's ``column`` counts bytes of UTF-8."""
    start = starts[line - 1]
    stop = starts[line] if line < len(starts) else len(text)
    return start + len(text[start:stop].encode()[:column].decode(errors="ignore"))
