"""Each task's rows are what a single call of the public API gives."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

import sc2onnx
from sc2onnx.batch import (
    Completing,
    Evaluating,
    Infilling,
    Measures,
    Record,
    Scoring,
    Task,
    answered,
)
from sc2onnx.errors import ContextLengthError, RequestError
from sc2onnx.evaluate import Settings, evaluate
from tests.batch.conftest import Row

CODE = Path(argparse.__file__).read_text(encoding="utf-8")


def answers(model: sc2onnx.Model, task: Task, fields: list[dict[str, Any]]) -> list[Row]:
    records = [
        Record("f.jsonl", number, f"r{number}", each) for number, each in enumerate(fields, 1)
    ]
    model.start()
    try:
        return list(answered(model, task, iter(records)))
    finally:
        model.stop()


def pieces(count: int, size: int) -> list[str]:
    return [CODE[900 * i : 900 * i + size * (1 + i % 3)] for i in range(count)]


def test_constrained(exact: sc2onnx.Model) -> None:
    pytest.importorskip("llguidance")
    schema = '{"enum": ["a", "b", 12]}'
    rows = [{"prompt": each, "prefix": each, "suffix": "\n"} for each in pieces(4, 60)]
    for task in (Completing({"json_schema": schema}), Infilling({"json_schema": schema})):
        assert task.settings()["json_schema"] == schema
        assert {row["text"] for row in answers(exact, task, rows)} <= {'"a"', '"b"', "12"}


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.9, "top_p": 0.9, "logprobs": True, "seed": 5}],
    ids=["greedy", "sampled"],
)
def test_completing(exact: sc2onnx.Model, options: dict[str, Any]) -> None:
    prompts = pieces(12, 100)
    found = answers(
        exact,
        Completing({"max_new_tokens": 8, "ends": "block", **options}),
        [{"prompt": each} for each in prompts],
    )
    for number, (row, prompt) in enumerate(zip(found, prompts, strict=True), 1):
        seed = Record("", 0, f"r{number}").seed(options.get("seed", 0))
        alone = exact.generate(prompt, max_new_tokens=8, ends="block", **{**options, "seed": seed})
        assert (row["id"], row["file"], row["row"]) == (f"r{number}", "f.jsonl", number)
        assert (row["text"], row["finish_reason"], row["prompt_tokens"]) == (
            alone.text,
            alone.finish_reason,
            alone.prompt_tokens,
        )
        if alone.logprobs is not None:
            assert row["token_ids"] == list(alone.tokens)
            assert row["logprobs"] == [round(value, 6) for value in alone.logprobs]
        else:
            assert "logprobs" not in row


def test_infilling(exact: sc2onnx.Model) -> None:
    fields: list[dict[str, Any]] = [
        {"prefix": each, "suffix": "\n\nprint(x)\n"} for each in pieces(6, 80)
    ]
    fields[1] |= {"path": "a.py", "repo": "me/it", "files": {"b.py": "x = 1\n"}}
    fields[2]["prefix"] = CODE[:40_000]
    found = answers(exact, Infilling({"max_new_tokens": 6, "order": "spm"}), fields)
    for row, each in zip(found, fields, strict=True):
        alone = exact.infill(**each, max_new_tokens=6, order="spm")
        assert (row["text"], row["tokens"], row["finish_reason"]) == (
            alone.text,
            len(alone.tokens),
            alone.finish_reason,
        )
        assert alone.used is not None
        assert row["cut"] == alone.used.cut
    assert [row["cut"] for row in found] == [False, False, True, False, False, False]


def test_scoring(exact: sc2onnx.Model) -> None:
    texts = [*pieces(5, 200), "x", "<fim_prefix> spelt out", CODE[:40_000], ""]
    *found, single, spelt, long, empty = answers(
        exact, Scoring(logprobs=True), [{"text": each} for each in texts]
    )
    for row, text in zip([*found, spelt], [*texts[:5], texts[6]], strict=True):
        prompt = exact.generate(
            text, max_new_tokens=1, logprobs=True, prompt_logprobs=True, special_tokens="text"
        ).prompt
        assert prompt is not None
        expected = [token.logprob for token in prompt[1:] if token.logprob is not None]
        assert row["logprobs"] == [round(value, 6) for value in expected]
        assert row["token_ids"] == exact.codec.encode(text, special=False)[1:]
        assert row["nll"] == pytest.approx(-sum(expected) / len(expected))
    assert "one token" in single["error"]
    assert "context" in long["error"]
    assert "empty" in empty["error"]


@pytest.mark.parametrize("spans", [0, 2])
def test_evaluating(exact: sc2onnx.Model, int8_bundle: Path, tmp_path: Path, spans: int) -> None:
    if spans:
        pytest.importorskip("rapidfuzz")
    texts = [*pieces(3, 700), "x=1\n"]
    task = Evaluating(Measures(length=100, max_tokens=400, infill=spans, seed=4))
    found = answers(exact, task, [{"text": each} for each in texts])
    for number, (row, text) in enumerate(zip(found, texts, strict=True), 1):
        (tmp_path / "f.py").write_text(text)
        few = number == 4  # where there is no room for the spans
        seed = Record("", 0, f"r{number}").seed(4)
        report = evaluate(
            int8_bundle, [tmp_path / "f.py"], settings=Settings(100, 400, 0 if few else spans, seed)
        )
        (score,) = report.scores
        assert row["nll"] == pytest.approx(score.nll, abs=1e-9)
        assert row["bits_per_byte"] == pytest.approx(score.bits_per_byte)
        assert (row["tokens"], row["bytes"]) == (report.positions, report.nbytes)
        if score.infill is not None:
            assert row["spans"] == spans
            assert (row["exact_match"], row["edit_similarity"]) == (
                score.infill.exact_match,
                score.infill.edit_similarity,
            )
        elif spans:
            assert (row["spans"], row["exact_match"]) == (0, None)


def test_what_would_fail_every_row_is_refused_before_the_first(
    exact: sc2onnx.Model, token_bundle: Path
) -> None:
    with pytest.raises(RequestError, match="max_new_tokens is 0"):
        Completing({"max_new_tokens": 0})
    with pytest.raises(RequestError, match="order is 'x'"):
        Infilling({"order": "x"})
    with pytest.raises(ContextLengthError, match="--length"):
        Evaluating(Measures(length=5000)).check(exact)
    with pytest.raises(sc2onnx.Sc2onnxError, match=r"no tokenizer\.json"):
        Scoring().check(sc2onnx.load(token_bundle))


def test_seeds_belong_to_rows_and_not_to_their_order(exact: sc2onnx.Model) -> None:
    task = Completing({"max_new_tokens": 8, "temperature": 1.5, "seed": 1})
    records = [Record("f", number, f"r{number}", {"prompt": "def f("}) for number in range(9)]
    exact.start()
    try:
        forwards = {row["id"]: row["text"] for row in answered(exact, task, iter(records))}
        backwards = {row["id"]: row["text"] for row in answered(exact, task, iter(records[::-1]))}
    finally:
        exact.stop()
    assert forwards == backwards
    assert len(set(forwards.values())) > 5
    assert Record("f", 1).seed(0) not in (
        Record("f", 2).seed(0),
        Record("g", 1).seed(0),
        Record("f", 1).seed(1),
    )
