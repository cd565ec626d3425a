"""What is found, against a search of every place by every other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sc2onnx.attribution import search
from sc2onnx.attribution.corpus import LEAST, Corpus
from sc2onnx.attribution.repetitions import DISTINCT, Rules, repetitions
from sc2onnx.attribution.search import runs
from sc2onnx.errors import RequestError

Text = list[int]


def joined(parts: Iterable[Text]) -> Text:
    return list(chain.from_iterable(parts))


PHRASES = [
    [int(code) for code in np.random.default_rng(seed).integers(1, 40, size)]
    for seed, size in enumerate((3, 9, 14, 22, 23, 31, 40, 64))
] + [[7] * 30, [1, 2] * 20]

TEXTS = st.lists(st.sampled_from(PHRASES), max_size=5).map(joined)
FILES = st.lists(TEXTS, min_size=1, max_size=5)


def array(text: Text) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    return np.array(text, np.uint32)


def corpus_of(texts: list[Text]) -> tuple[Corpus, list[int]]:
    """The corpus, and where each text of it begins."""
    begins, at = [], 0
    for text in texts:
        begins.append(at)
        at += len(text) + 1
    return Corpus.of(map(array, texts)), begins


def naive(text: Text, corpus: Text, least: int) -> Iterator[tuple[int, int, int]]:
    """Begin, end and place of every run that goes on to neither side."""
    for begin in range(len(text)):
        for place in range(len(corpus)):
            if begin and text[begin - 1] == corpus[place - 1]:
                continue
            length = 0
            while begin + length < len(text) and text[begin + length] == corpus[place + length]:
                length += 1
            if length >= least:
                yield begin, begin + length, place


@settings(max_examples=60, deadline=None)
@given(TEXTS, FILES, st.integers(LEAST, 40))
def test_every_run_is_found_as_far_as_it_goes(text: Text, files: list[Text], least: int) -> None:
    corpus, _ = corpus_of(files)
    found = runs(array(text), corpus, least)
    rows = zip(found.begins.tolist(), found.ends.tolist(), found.places.tolist(), strict=True)
    assert sorted(rows) == sorted(naive(text, corpus.codes.tolist(), least))


@pytest.mark.parametrize(("name", "value"), [("_BLOCK", 5), ("_PAIRS", 3), ("_STRIDE", 2)])
def test_parts_of_the_work_change_nothing(
    name: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, files = joined(PHRASES), [PHRASES[7] + PHRASES[5], PHRASES[9], joined(PHRASES[::-1])]
    corpus, _ = corpus_of(files)
    monkeypatch.setattr(search, name, value)
    found = runs(array(text), corpus, LEAST)
    rows = zip(found.begins.tolist(), found.ends.tolist(), found.places.tolist(), strict=True)
    assert sorted(rows) == sorted(naive(text, corpus.codes.tolist(), LEAST))


def expected(
    text: Text, files: list[Text], prompts: list[Text], rules: Rules
) -> list[tuple[int, int, list[int]]]:
    """The longest runs, with the rules applied lexeme by lexeme."""
    corpus, begins = corpus_of(files)
    every = list(naive(text, corpus.codes.tolist(), LEAST))
    before, _ = corpus_of(prompts)
    known = {
        at
        for begin, end, _ in naive(text, before.codes.tolist(), LEAST)
        for at in range(begin, end)
    }
    for at in range(len(text)):
        inside = {file_of(place, begins) for begin, end, place in every if begin <= at < end}
        if rules.most_files is not None and len(inside) > rules.most_files:
            known.add(at)
    spans = {(begin, end) for begin, end, _ in every if end - begin >= rules.least}
    found = list[tuple[int, int, list[int]]]()
    for begin, end in sorted(spans):
        if any(b <= begin and end <= e and (b, e) != (begin, end) for b, e in spans):
            continue
        own = [text[at] for at in range(begin, end) if at not in known]
        if len(own) >= rules.least and len(set(own)) >= DISTINCT:
            places = [place for b, e, place in every if (b, e) == (begin, end)]
            found.append((begin, end, sorted(places)))
    return found


def file_of(place: int, begins: list[int]) -> int:
    return sum(begin <= place for begin in begins)


@settings(max_examples=60, deadline=None)
@given(
    TEXTS,
    FILES,
    st.lists(TEXTS, max_size=2),
    st.integers(LEAST, 40),
    st.none() | st.integers(1, 3),
)
def test_repetitions_are_the_longest_runs_that_are_nobody_elses(
    text: Text, files: list[Text], prompts: list[Text], least: int, most: int | None
) -> None:
    rules = Rules(least=least, most_files=most)
    corpus, begins = corpus_of(files)
    made = repetitions(array(text), corpus, np.array(begins), map(array, prompts), rules)
    found = [(each.begin, each.end, each.places.tolist()) for each in made]
    assert found == expected(text, files, prompts, rules)


def test_many_copies_are_looked_at_up_to_a_limit() -> None:
    """A table of zeros in every place of a large file takes bounded work and memory."""
    corpus, begins = corpus_of([[5, 6] * 50_000])
    found = runs(array([5, 6] * 40), corpus, LEAST)
    assert 0 < len(found.begins) <= 80 * search.MOST_PLACES
    assert not list(
        repetitions(array([5, 6] * 40), corpus, np.array(begins), [], Rules(least=LEAST))
    )


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"least": LEAST - 1}, "least is 22, expected a number, 23 or more"),
        ({"least": True}, "least is True"),
        ({"most_files": 0}, "most_files is 0, expected a number, 1 or more"),
        ({"most_sources": "x"}, "most_sources is 'x'"),
    ],
)
def test_rules_out_of_bounds_are_refused(wrong: dict[str, int], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        Rules(**wrong)
