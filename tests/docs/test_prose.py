"""The prose of the README and the documents: sentences, words, and figures with one source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.pages import PAGES

pytest.importorskip("markdown_it", reason="needs the dev extra")

from prose import faults

RECORDS = ("measurements", "sizing")
"""Pages of figures, whose captions are lists rather than sentences."""


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.stem not in RECORDS], ids=lambda page: page.stem
)
def test_a_page_is_written_as_the_style_says(page: Path) -> None:
    assert [str(fault) for fault in faults(page)] == []


def test_a_long_sentence_and_a_word_are_found_where_they_are(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# A page\n\nShort. A{' word' * 35}.\n\n- `just` is code.\n- It just works.\n")
    assert [(fault.line, fault.told.split(":")[0]) for fault in faults(page)] == [
        (3, "a sentence of 36 words, at most 35"),
        (6, '"just" in prose'),
    ]


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120


def test_figures_of_precision_are_those_of_their_sources() -> None:
    table = re.findall(r"^\| .* \|$", (ROOT / "docs" / "choose-a-precision.md").read_text(), re.M)
    cells = [cell for row in table if "GB" not in row for cell in row.strip("| ").split(" | ")]
    figures = {number for cell in cells for number in re.findall(r"\d+\.\d+", cell)}
    sources = "".join(
        (ROOT / "docs" / f"{name}.md").read_text() for name in ("quality", "measurements")
    )
    assert len(figures) > 15
    assert {figure for figure in figures if figure not in sources} == set()


def test_the_picture_is_drawn_from_figures_that_are_there() -> None:
    import picture

    found = picture.figures()
    assert set(found.decode) == {64, 1024, 4096, 8192, 16384}
    assert all(len(values) == len(picture.NAMES) for values in found.decode.values())
    assert len(found.prompt) == len(picture.NAMES)
    assert list(found.keystroke) == list(picture.KEYSTROKES.values())


def test_the_picture_of_precisions_is_drawn_from_figures_that_are_there() -> None:
    pytest.importorskip("matplotlib")
    import precision_picture

    found = precision_picture.points((ROOT / "docs" / "quality.md").read_text(encoding="utf-8"))
    assert {point.maker for point in found} == set(precision_picture.MAKERS)
    assert {"int8", "int4", "int4-fast", "Q4_K_M", "Q8_0"} <= {point.name for point in found}
    assert all(point.low <= point.divergence <= point.high for point in found)
