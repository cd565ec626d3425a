"""Where completions of code end, by their brackets and blocks, strings and comments considered."""

from __future__ import annotations

import io
import time
import tokenize
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sc2onnx.runtime.text.code import CLOSING, CodeReader, Syntax
from sc2onnx.runtime.text.endings import Ending, ending

ROOT = Path(__file__).parents[3]

PYTHON, C, RUST = "a.py", "a.c", "a.rs"


def cut(ends: Ending, prefix: str, text: str, suffix: str = "", path: str | None = None) -> str:
    rule = ending(ends, prefix, suffix, path)
    assert rule is not None
    scanner, whole = rule.scanner(), rule.scanner()
    pieces = "".join(map(scanner.push, text)) + scanner.flush()
    assert whole.push(text) + whole.flush() == pieces  # however it is cut into pieces
    assert whole.found == scanner.found
    return pieces


@pytest.mark.parametrize(
    ("prefix", "text", "suffix", "path", "expected"),
    [
        ("x = foo(", "a, [1, 2])\ny = 3", "", PYTHON, "a, [1, 2])"),
        ("x = foo(", 'a, ")", b)\ny', "", PYTHON, 'a, ")", b)'),
        ("x = foo(", "a,  # )\n    b)\ny", "", PYTHON, "a,  # )\n    b)"),
        ("x = foo(", "a // 2, b)\ny", "", PYTHON, "a // 2, b)"),
        ("x = foo(", "a, // )\n  b)\ny", "", C, "a, // )\n  b)"),
        ("x = foo(", "a, /* ) */ ')', b)\ny", "", C, "a, /* ) */ ')', b)"),
        ("x = foo(", '"""\n)"""\n, \'it)\\\')\')', "", PYTHON, '"""\n)"""\n, \'it)\\\')\')'),
        ("x = foo('", "a)', b) + 1", "", PYTHON, "a)', b)"),  # inside a string
        ("x = foo(bar(", "1), 2) + 3", "", PYTHON, "1), 2)"),
        ("x = foo(bar(", "1)) + 3", ")", PYTHON, "1)"),  # the suffix closes the other one
        ("x = foo(", "a, b)", ")\n", PYTHON, "a, b"),
        ("x = foo(", "a, b)", ", c)\n", PYTHON, "a, b"),
        ("x = ", "[\n    1,\n    2,\n]\ny = 2", "", PYTHON, "[\n    1,\n    2,\n]"),
        ("x = ", "1\ny = 2", "", PYTHON, "1"),
        ("x = [\n    1,\n    ", "2,\n    3,\n]", "\n]\n", PYTHON, "2,"),
        ("foo(\n    ", "a,\n    b\n)\nbar()", "", PYTHON, "a,\n    b\n)"),
        ("foo(\n    ", "a,\n    b\n)\nbar()", "\n)\n", PYTHON, "a,\n    b"),
        ("void f() {", "\n  g('}');\n}\nvoid", "", C, "\n  g('}');\n}"),
        ("f(", "x: &'a str) -> (", "", RUST, "x: &'a str)"),
        ("f(", "')', 'b')", "", RUST, "')', 'b')"),
        ("let x = `${", "a(}`, b", "", "a.js", "a(}`, b"),
    ],
)
def test_brackets_that_are_balanced(
    prefix: str, text: str, suffix: str, path: str, expected: str
) -> None:
    assert cut("balanced", prefix, text, suffix, path) == expected


_BODY = "    if n < 2:\n        return n\n    return 2"


@pytest.mark.parametrize(
    ("prefix", "text", "suffix", "path", "expected"),
    [
        ("def f(n):", f"\n{_BODY}\n\ndef g():\n", "", PYTHON, f"\n{_BODY}"),
        ("def f(n):\n", f"{_BODY}\n\nf(3)\n", "", PYTHON, _BODY),
        ("def f(n):\n    ", f"{_BODY[4:]}\n\nf(3)\n", "", PYTHON, _BODY[4:]),
        ("def f(n):  # some:", f"\n{_BODY}\n\nf(3)\n", "", PYTHON, f"\n{_BODY}"),
        ("  for a in b:\n", "    c()\n  else:\n", "", PYTHON, "    c()"),
        (
            "def f():\n    x = ",
            '"""\ntext\n"""\n    y = [\n  1\n]\n    z\nw',
            "",
            PYTHON,
            '"""\ntext\n"""\n    y = [\n  1\n]\n    z',
        ),
        ("int f() {", "\n  return '}';\n}\nint g", "", C, "\n  return '}';\n}"),
        (
            "int f() {\n",
            "  if (a) {\n    b();\n  }\n}\nint g",
            "",
            C,
            "  if (a) {\n    b();\n  }\n}",
        ),
        ("class A {", "\n  int b;\n};\nint", "", "a.cpp", "\n  int b;\n};"),
        ("f(function () {", "\n  g();\n});\nh()", "", "a.js", "\n  g();\n});"),
        ("int f() {", "\n  return 1;\n}\nint g", "\n}\n", C, "\n  return 1;"),
        ("int f() {\n  a();\n  ", "b();\n  c();\n}\n", "", C, "b();\n  c();"),
        ("if (a) {\n\t", "b();\n\tc();\n}\n", "\n}\n", C, "b();\n\tc();"),
        ("key:\n", "  a: 1\n  b: 2\nother: 3\n", "", "a.yaml", "  a: 1\n  b: 2"),
    ],
)
def test_blocks(prefix: str, text: str, suffix: str, path: str, expected: str) -> None:
    assert cut("block", prefix, text, suffix, path) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import os\n\ndef f():\n    # a comment\n", Syntax()),
        ("#include <a.h>\nint f() {\n  return 1;\n", Syntax(hashes=False)),
        ("fn f(a: &str) {\n  let mut b = a;\n", Syntax(hashes=False, lifetimes=True)),
        ("", Syntax()),
    ],
)
def test_without_a_name_a_file_is_known_by_its_looks(text: str, expected: Syntax) -> None:
    assert Syntax.of(None, text) == expected


def test_brackets_in_real_python_are_those_that_its_tokenizer_sees() -> None:
    for path in sorted((ROOT / "sc2onnx").rglob("*.py"))[::7]:
        code = path.read_text()
        reader = CodeReader(Syntax())
        for character in code:
            reader.push(character)
        assert (reader.open, reader.inside) == ([], ""), path
        seen = [
            token.string
            for token in tokenize.generate_tokens(io.StringIO(code).readline)
            if token.type == tokenize.OP and token.string in "()[]{}"
        ]
        assert _brackets(code) == seen, path


def _brackets(code: str) -> list[str]:
    """Those that the reader takes for code's."""
    reader, found = CodeReader(Syntax()), list[str]()
    for character in code:
        before = len(reader.open)
        reader.push(character)
        if len(reader.open) != before:
            found.append(character)
    return found


@given(
    st.sampled_from(["block", "balanced", "line"]),
    st.text("ab ():{}[]\n\"'`#/*\\;", max_size=60),
    st.text("ab ():{}[]\n\"'`#/*\\;", max_size=60),
    st.text("ab )}\n", max_size=8),
    st.sampled_from([None, PYTHON, C, RUST]),
)
def test_whatever_comes_in_pieces_or_whole_is_cut_alike(
    ends: Ending, prefix: str, text: str, suffix: str, path: str | None
) -> None:
    assert text.startswith(cut(ends, prefix, text, suffix, path))


def test_a_long_file_is_read_in_little_time() -> None:
    prefix = "def f(a):\n    return {'b': [a]}\n\n\n" * 20_000 + "x = foo("
    began = time.process_time()
    assert cut("balanced", prefix, "1)\n", path=PYTHON) == "1)"
    assert time.process_time() - began < 0.5
    assert set(CLOSING) == {")", "]", "}"}
