"""Whole evaluations of the fixture bundle, against figures computed here another way."""

from __future__ import annotations

import json
import math
import queue
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

import sc2onnx
from sc2onnx.errors import BundleNotFoundError, ContextLengthError, RequestError, TokenizerError
from sc2onnx.evaluate import Opener, Settings, bundle_opener, evaluate
from sc2onnx.evaluate.source import BundleSource
from sc2onnx.runtime.text.codec import Codec
from tests.runtime.test_imports import GUARD, run

SOURCE = Path(queue.__file__)
QUICK = Settings(length=50, max_tokens=120)


class Noisy(BundleSource):
    """The bundle, its logits moved a little: a reference that is not the bundle.
    ``codec``: in place of its own.
    """

    def __init__(self, model: sc2onnx.Model, name: str, codec: Codec | None) -> None:
        super().__init__(model, name)
        self._other = codec

    @property
    def codec(self) -> Codec | None:
        return self._other or super().codec

    def logits(self, tokens: Any) -> Iterator[Any]:
        random = np.random.default_rng(len(tokens))
        for logits in super().logits(tokens):
            yield logits + random.standard_normal(logits.shape, dtype=np.float32)


@pytest.fixture
def noisy(model: sc2onnx.Model) -> Callable[..., Opener]:
    """``noisy(vocab_size=..)``: an opener of a :class:`Noisy` reference,
    some of its facts changed.
    """

    def make(codec: Codec | None = None, **changes: Any) -> Opener:
        @contextmanager
        def opened() -> Iterator[Noisy]:
            source = Noisy(model, "noisy", codec)
            source.about = replace(source.about, **changes)
            yield source

        return opened

    return make


def test_likelihood_is_that_of_each_token_after_those_before_it_in_its_window(
    model: sc2onnx.Model, bundle: Path
) -> None:
    report = evaluate(bundle, [SOURCE], settings=QUICK)
    ids = model.codec.encode(SOURCE.read_text(encoding="utf-8"), special=False)
    total = 0.0
    for start, stop in ((0, 50), (50, 100), (100, 120)):
        with model.sequence() as sequence:
            # token by token, where evaluate reads windows at once
            for position in range(start, stop):
                row = sequence.append([ids[position]])
                assert row is not None
                values = row[0].astype(np.float64)
                total -= (
                    values[ids[position + 1]]
                    - math.log(np.exp(values - values.max()).sum())
                    - values.max()
                )
    score = report.scores[0]
    assert report.positions == 120
    assert score.nll == pytest.approx(total / 120, abs=1e-5)
    assert score.perplexity == pytest.approx(math.exp(total / 120), rel=1e-4)
    nbytes = len(b"".join(map(model.codec.token_bytes, ids[1:121])))
    assert report.nbytes == nbytes
    assert score.bits_per_byte == pytest.approx(total / math.log(2) / nbytes, rel=1e-4)
    assert (score.difference, score.infill, report.reference) == (None, None, None)


def test_a_bundle_does_not_differ_from_itself(bundle: Path) -> None:
    with pytest.warns(UserWarning, match="the reference's logits to the bit: nothing is compared"):
        report = evaluate(bundle, [SOURCE], against=bundle, settings=QUICK)
    difference = report.scores[0].difference
    assert difference is not None
    assert difference.kl_divergence == 0
    assert difference.top1_agreement == difference.top5_overlap == 1
    assert difference.positions == 120
    assert report.reference is not None
    assert report.reference.nll == report.scores[0].nll


def test_every_bundle_is_held_against_the_reference_on_the_same_tokens(
    bundle: Path, tmp_path: Path, noisy: Callable[..., Opener]
) -> None:
    pytest.importorskip("rapidfuzz")
    copy = shutil.copytree(bundle, tmp_path / "copy")
    told = list[str]()
    asked = replace(QUICK, infill=3)
    report = evaluate(
        bundle, [SOURCE], also=[copy], against=noisy(), settings=asked, tell=told.append
    )
    first, second = report.scores
    assert [score.about.name for score in report.scores] == [bundle.name, "copy"]
    assert first.difference == second.difference
    assert first.infill == second.infill
    assert first.infill is not None
    assert first.infill.spans == len(first.infill.answers) == 3
    assert first.difference is not None
    assert 0.1 < first.difference.kl_divergence < 1.5  # half the variance of the noise
    assert report.reference is not None
    assert report.reference.nll == first.difference.nll_reference != first.nll
    assert report.reference.infill == first.infill  # its text comes from the same model
    assert any(line.startswith("noisy: 120 of 120 positions") for line in told)
    assert any(line.startswith("copy: 3 of 3 spans") for line in told)
    assert (
        json.loads(json.dumps(report.figures(), allow_nan=False))["scores"][1]["about"]["name"]
        == "copy"
    )


def test_figures_that_are_not_finite_are_null(bundle: Path) -> None:
    report = evaluate(bundle, [SOURCE], settings=Settings(length=8, max_tokens=8))
    broken = replace(report, scores=(replace(report.scores[0], nll=math.nan, perplexity=math.inf),))
    figures = broken.figures()["scores"][0]
    assert (figures["nll"], figures["perplexity"]) == (None, None)
    assert figures["bits_per_byte"] == report.scores[0].bits_per_byte


def test_bundles_of_one_name_are_told_apart_and_none_counts_twice(
    bundle: Path, tmp_path: Path
) -> None:
    twin = shutil.copytree(bundle, tmp_path / bundle.name)
    report = evaluate(bundle, [SOURCE], also=[twin], settings=Settings(length=8, max_tokens=8))
    assert [score.about.name for score in report.scores] == [str(bundle), str(twin)]
    with pytest.raises(RequestError, match="a bundle is given twice"):
        evaluate(bundle, [SOURCE], also=[bundle / ".." / bundle.name])


def test_windows_are_1024_tokens_unless_told_and_fit_the_context(bundle: Path) -> None:
    assert evaluate(bundle, [SOURCE], settings=Settings(max_tokens=5)).length == 1024
    with pytest.raises(
        ContextLengthError, match=r"windows are 2049 tokens, the context of .* holds 2048"
    ):
        evaluate(bundle, [SOURCE], settings=Settings(length=2049))


def test_a_reference_with_other_tokens_is_refused(
    bundle: Path, noisy: Callable[..., Opener], tmp_path: Path
) -> None:
    with pytest.raises(
        RequestError,
        match=r"noisy has a vocabulary of 49152, bundle one of 4096.*the same tokenizer",
    ):
        evaluate(bundle, [SOURCE], against=noisy(vocab_size=49152), settings=QUICK)
    with pytest.raises(
        ContextLengthError, match="the context of noisy holds 40: give a smaller --length"
    ):
        evaluate(bundle, [SOURCE], against=noisy(context_length=40), settings=QUICK)
    merged = json.loads(Tokenizer.from_file(str(bundle / "tokenizer.json")).to_str())
    merged["model"]["merges"] = merged["model"]["merges"][:100]
    (tmp_path / "tokenizer.json").write_text(json.dumps(merged))
    with pytest.raises(
        RequestError, match="the tokenizer of noisy cuts the files into other tokens"
    ):
        evaluate(
            bundle, [SOURCE], against=noisy(Codec(tmp_path / "tokenizer.json")), settings=QUICK
        )


def test_mistakes_are_refused_before_any_work(
    bundle: Path, token_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.py").touch()
    with pytest.raises(RequestError, match=r"empty\.py is empty"):
        evaluate(bundle, [SOURCE, tmp_path / "empty.py"])
    with pytest.raises(BundleNotFoundError, match="no bundle at"):
        evaluate(bundle, [SOURCE], also=[tmp_path / "absent"])
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        evaluate(token_bundle, [SOURCE])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("length", 0),
        ("max_tokens", 0),
        ("infill", -1),
        ("seed", -1),
        ("threads", 0),
        ("length", 1.5),
    ],
)
def test_impossible_settings_are_refused(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=f"{name} is {value}, expected a whole number"):
        Settings(**{name: value})


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(RequestError, match="order is 'mps', expected 'psm' or 'spm'"):
        Settings(order="mps")  # type: ignore[arg-type]


def test_a_bundle_as_reference_is_opened_by_path_or_opener(bundle: Path) -> None:
    asked = Settings(length=8, max_tokens=8)
    assert evaluate(bundle, [SOURCE], against=str(bundle), settings=asked) == evaluate(
        bundle, [SOURCE], against=bundle_opener(bundle), settings=asked
    )


def test_evaluating_needs_neither_torch_nor_the_exporter(bundle: Path) -> None:
    done = run(
        GUARD
        + (
            "from sc2onnx.evaluate import Settings, evaluate\n"
            "print(evaluate(sys.argv[1], [sys.argv[2]], against=sys.argv[1], "
            "settings=Settings(max_tokens=9)).positions)"
        ),
        str(bundle),
        str(SOURCE),
    )
    assert done.stdout.strip() == "9", done.stderr
