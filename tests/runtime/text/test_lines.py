"""Where completions end by their lines: whole texts, and the same in any pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sc2onnx.runtime.text.lines import Lines, LineScanner, indentation, next_line

CODE = st.text(alphabet="ab \t\n{}", max_size=40)
LINES = st.builds(
    Lines,
    most=st.one_of(st.none(), st.integers(1, 4)),
    indent=st.integers(0, 4),
    before=st.text(alphabet="ab {}", max_size=4).map(str.rstrip),
)


def ended(lines: Lines, text: str) -> tuple[str, bool]:
    """By whole lines, as the class says it."""
    first, *others = text.split("\n")
    kept, blank = first, ""
    for number, line in enumerate(others):
        if number + 1 == lines.most:
            return kept, True
        if not line.strip():
            blank += f"\n{line}"
            continue
        if indentation(line) < lines.indent or line.rstrip() == lines.before:
            return kept, True
        kept, blank = f"{kept}{blank}\n{line}", ""
    return kept + blank, False


@given(LINES, CODE)
def test_a_text_ends_where_its_lines_say(lines: Lines, text: str) -> None:
    scanner = LineScanner(lines)
    found = scanner.push(text) + scanner.flush()
    assert (found, scanner.found) == ended(lines, text)


@given(LINES, st.lists(CODE, max_size=6))
def test_in_pieces_it_is_the_same_text(lines: Lines, pieces: list[str]) -> None:
    scanner, whole = LineScanner(lines), LineScanner(lines)
    found = "".join(map(scanner.push, pieces)) + scanner.flush()
    assert (found, scanner.found) == (whole.push("".join(pieces)) + whole.flush(), whole.found)


@given(CODE)
def test_without_rules_nothing_is_held_back_but_blank_ends_of_lines(text: str) -> None:
    scanner = LineScanner(Lines())
    given_at_once = scanner.push(text)
    assert text.startswith(given_at_once)
    assert not text[len(given_at_once) :].strip()
    assert given_at_once + scanner.flush() == text


@pytest.mark.parametrize(
    ("prefix", "suffix", "text", "expected"),
    [
        ("def f():\n    x = ", "\n", "1\n    y = 2\n\ndef g():\n", "1\n    y = 2"),
        ("    x = ", "1\n    return x\n", "2\n    y = 3\n    return x\n    z", "2\n    y = 3"),
        ("    x = ", "\n    return x\n", "2\n    return xy\n", "2\n    return xy\n"),
        ("if (a) {\n\t", "\n}\n", "b();\n\tc();\n}\n", "b();\n\tc();"),
        ("", "", "import os\n\nimport sys\n", "import os\n\nimport sys\n"),
    ],
)
def test_a_block_ends_with_its_indentation_or_at_what_follows(
    prefix: str, suffix: str, text: str, expected: str
) -> None:
    scanner = LineScanner(Lines.block(prefix, suffix))
    assert scanner.push(text) + scanner.flush() == expected


def test_one_line_is_the_rest_of_the_cursors() -> None:
    scanner = LineScanner(Lines.line())
    assert scanner.push("foo(") == "foo("
    assert scanner.push(")\nbar") == ")"
    assert scanner.found
    assert scanner.push("more") == scanner.flush() == ""


def test_the_line_that_follows_is_not_the_cursors_own_nor_a_blank_one() -> None:
    assert next_line(")\n\n  \n    return x  \n}") == "    return x"
    assert next_line("rest of the line") == ""
