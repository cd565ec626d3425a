from __future__ import annotations

import sys
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sc2onnx
from sc2onnx.errors import MissingDependencyError
from sc2onnx.evaluate import About
from sc2onnx.evaluate.infill import complete, edit_similarity, questions, score, visible
from sc2onnx.evaluate.progress import Progress
from sc2onnx.evaluate.source import BundleSource
from sc2onnx.evaluate.spans import Span
from sc2onnx.runtime.text.codec import Codec
from sc2onnx.runtime.text.fim import fim_prompt

SPAN = Span("f.py", "lines", "def f():\n", "    a = 1\n    b = 2", "\n    return a + b\n")


class Scripted:
    """Writes what it is told to, whatever the prompt."""

    about, codec = About("scripted", "none", 0, 4096, 2048), None

    def __init__(self, tokens: list[int]) -> None:
        self.tokens, self.given, self.closed = tokens, 0, False

    def logits(self, tokens: Any) -> Any:
        raise NotImplementedError

    def continuation(self, prompt: Any, limit: int) -> Generator[int, None, None]:
        try:
            for token in self.tokens[:limit]:
                self.given += 1
                yield token
        finally:
            self.closed = True


@pytest.fixture(scope="module")
def codec(model: sc2onnx.Model) -> Codec:
    return model.codec


def answer(codec: Codec, text: str, *then: int) -> tuple[str, Scripted]:
    source = Scripted([*codec.encode(text, special=False), *then])
    question = questions([SPAN], codec, 512, 2048)[0]
    return complete(source, question, codec, codec.stop_ids()), source


def test_an_answer_is_cut_to_as_many_lines_as_the_truth_and_asks_for_no_more(codec: Codec) -> None:
    text, source = answer(codec, "    a = 1\n    b = 2\n    c = 3\n    d = 4\n")
    assert text == SPAN.truth
    assert source.given < len(source.tokens)
    assert source.closed


def test_an_answer_ends_at_a_stop_token(codec: Codec) -> None:
    text, source = answer(codec, "    a", codec.special_id("<|endoftext|>"), *codec.encode(" = 1"))
    assert text == "    a"
    assert source.closed


def test_an_answer_has_a_limit_that_the_truth_fits_in(codec: Codec) -> None:
    question = questions([SPAN], codec, 512, 2048)[0]
    truth = len(codec.encode(SPAN.truth, special=False))
    assert question.limit == 2 * truth + 16
    text, source = answer(codec, "x " * 500)
    assert source.given == question.limit
    assert "\ufffd" not in text


def test_prompts_are_those_of_infill_and_fit(codec: Codec) -> None:
    assert questions([SPAN], codec, 512, 2048)[0].prompt.tolist() == fim_prompt(
        codec, SPAN.prefix, SPAN.suffix
    )
    assert questions([SPAN], codec, 512, 2048, "spm")[0].prompt.tolist() == fim_prompt(
        codec, SPAN.prefix, SPAN.suffix, order="spm"
    )
    long = Span("f.py", "line", "a = 1\n" * 2000, "value = 2", "\nb = 3" * 2000)
    for length, context in ((300, 2048), (2048, 2048), (2048, 200)):
        question = questions([long], codec, length, context)[0]
        assert len(question.prompt) <= length
        assert len(question.prompt) + question.limit <= context


def test_scores_are_means_over_the_spans(codec: Codec) -> None:
    pytest.importorskip("rapidfuzz")
    other = Span("f.py", "line", "x\n", "abcd", "\ny")
    told = list[str]()
    source = Scripted([*codec.encode(SPAN.truth.replace("\n", "  \n") + "\n", special=False)])
    asked = questions([SPAN, other], codec, 512, 2048)
    found = score(source, asked, codec, codec.stop_ids(), Progress(told.append, "s", 2, "spans"))
    first, second = found.answers
    assert first.exact  # blanks at the end of a line do not count
    assert first.completion != SPAN.truth
    assert second.completion == "    a = 1  "
    assert not second.exact
    assert second.similarity == pytest.approx(1 - distance("abcd", "    a = 1") / 9)
    assert (found.spans, found.exact_match) == (2, 0.5)
    assert found.edit_similarity == pytest.approx((1 + second.similarity) / 2)
    assert told == ["s: 2 of 2 spans, 0 s"]


def distance(a: str, b: str) -> int:
    """Levenshtein's, by the book."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a):
        last, row = row, [i + 1]
        for j, right in enumerate(b):
            row.append(min(last[j + 1] + 1, row[j] + 1, last[j] + (left != right)))
    return row[-1]


@given(a=st.text("ab\n", max_size=12), b=st.text("ab\n", max_size=12))
def test_edit_similarity_is_levenshteins(a: str, b: str) -> None:
    pytest.importorskip("rapidfuzz")
    expected = 1 - distance(a, b) / max(len(a), len(b)) if a or b else 1.0
    assert edit_similarity()(a, b) == pytest.approx(expected)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidfuzz.distance", None)
    with pytest.raises(
        MissingDependencyError,
        match=r'needs the package rapidfuzz.*pip install "rapidfuzz>=3" "matplotlib>=3.8"',
    ):
        edit_similarity()


def test_visible_text_keeps_indents_and_lines() -> None:
    assert visible("  a \r\n\t\n b\t") == "  a\n\n b"


def test_a_bundle_answers_as_model_infill_does(model: sc2onnx.Model) -> None:
    span = Span("f.py", "line", "def add(a, b):\n    ", "return a + b", "\n\nprint(add(1, 2))\n")
    question = questions([span], model.codec, 512, 2048)[0]
    expected = model.infill(span.prefix, span.suffix, max_new_tokens=question.limit).text.split(
        "\n"
    )[0]
    assert (
        complete(BundleSource(model, "m"), question, model.codec, model.codec.stop_ids())
        == expected
    )
    assert np.array_equal(question.prompt, fim_prompt(model.codec, span.prefix, span.suffix))
