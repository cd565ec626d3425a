from __future__ import annotations

import queue
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sc2onnx.errors import RequestError
from sc2onnx.evaluate.spans import choose
from sc2onnx.evaluate.text import Document


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return [
        Document("queue.py", Path(queue.__file__).read_text(encoding="utf-8")),
        Document("dos.py", "".join(f"value_{i} = {i}\r\n" for i in range(40))),
    ]


def test_spans_and_what_is_around_them_are_the_file(documents: list[Document]) -> None:
    texts = {document.name: document.text for document in documents}
    spans = choose(documents, 30, seed=5)
    assert [span.kind for span in spans] == ["rest of line", "line", "lines"] * 10
    assert {span.file for span in spans} == set(texts)
    for span in spans:
        assert span.prefix + span.truth + span.suffix == texts[span.file]
        assert span.lines == span.truth.count("\n") + 1
        assert 3 <= len(span.truth.strip()) <= 320
        assert span.suffix == "" or span.suffix[0] == "\n"  # to the end of a line
        shown = span.prefix.rpartition("\n")[2]
        if span.kind == "rest of line":
            assert shown.strip()
            assert span.lines == 1
        else:
            assert shown == ""
            assert span.lines == 1 if span.kind == "line" else 2 <= span.lines <= 4


def test_the_seed_decides(documents: list[Document]) -> None:
    assert choose(documents, 12, seed=5) == choose(documents, 12, seed=5)
    assert choose(documents, 12, seed=5) != choose(documents, 12, seed=6)


def test_each_kind_asks_for_other_lines(documents: list[Document]) -> None:
    spans = choose(documents, 60, seed=0)
    lines = [(span.kind, span.file, span.prefix.count("\n")) for span in spans]
    assert len(set(lines)) == 60


@given(text=st.text(alphabet="ab1 }\n\r", max_size=80), seed=st.integers(0, 9))
def test_any_text_gives_spans_that_rebuild_it_or_an_error(text: str, seed: int) -> None:
    try:
        spans = choose([Document("x", text)], 3, seed)
    except RequestError:
        return
    for span in spans:
        assert span.prefix + span.truth + span.suffix == text
        assert span.prefix + span.suffix
        assert len(span.truth.strip()) >= 3


def test_more_spans_than_lines_are_refused() -> None:
    with pytest.raises(
        RequestError,
        match=r"the files have 1 places for a span of the kind 'rest of line', --infill needs 2",
    ):
        choose([Document("x", "value = 1\n}\n")], 6, 0)


def test_nothing_asked_is_nothing_given(documents: list[Document]) -> None:
    assert choose(documents, 0, 0) == []
