"""The shipped checkpoint: its verification, as ``sc2onnx verify`` does it, and
sampling against transformers.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sc2onnx
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import CheckpointError, RequestError
from sc2onnx.evaluate.measure import Difference, compare, pool
from sc2onnx.runtime.choose.parameters import SamplingParameters
from sc2onnx.runtime.choose.sampling import Sampler
from sc2onnx.runtime.choose.weights import candidates
from sc2onnx.runtime.engine.sequence import TokenSequence
from sc2onnx.verify import TOLERANCE, verify
from sc2onnx.verify.run import record

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def test_the_mini_bundle_passes_and_keeps_its_figures(copy: Path, checkpoint: Path) -> None:
    report = verify(copy, checkpoint, greedy_tokens=512)
    summary = report.summary
    assert summary.passed
    assert summary.max_rel_diff is not None
    assert summary.max_rel_diff <= TOLERANCE
    assert summary.longest == 515
    assert summary.greedy_match == summary.greedy_tokens == 512
    assert {result.case.length for result in report.cases} == {1, 255, 256, 257, 515}
    assert {result.case.split for result in report.cases} == {
        "at once",
        "token by token",
        "uneven chunks",
        "with rewinds",
    }
    assert summary.nll is not None
    assert 0 < summary.nll == pytest.approx(summary.nll_reference, abs=1e-5)
    assert "argparse.py of Python" in summary.text
    assert Manifest.read(copy).verification == summary
    card = (copy / "README.md").read_text()
    assert f"{summary.max_rel_diff:.2e}" in card
    assert "passed" in card
    # the bundle is still whole
    assert sc2onnx.load(copy, check="full").manifest.verification == summary


def test_a_wrong_weight_fails_and_says_so(copy: Path, checkpoint: Path, tmp_path: Path) -> None:
    """The verifier must be able to fail: one bias of one layer, off by a little, in a
    bundle with valid digests.
    """
    from safetensors.torch import load_file, save_file

    from sc2onnx.export import export

    broken = Path(shutil.copytree(checkpoint, tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.3.mlp.c_fc.bias"][5] += 0.5
    save_file(weights, broken / "model.safetensors")
    export(broken, copy, overwrite=True)
    report = verify(copy, checkpoint, max_length=64, greedy_tokens=16)
    assert not report.summary.passed
    assert report.summary.max_rel_diff is not None
    assert report.summary.max_rel_diff > 1e-4
    manifest = Manifest.read(copy)
    assert manifest.verification is not None
    assert not manifest.verification.passed
    assert "**failed**" in (copy / "README.md").read_text()


def test_a_tokenizer_that_is_not_of_the_bundle_is_not_verified_with(
    token_bundle: Path, checkpoint: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(token_bundle, tmp_path / "tokens"))
    shutil.copy(checkpoint / "tokenizer.json", copied)
    summary = verify(copied, checkpoint, max_length=8, greedy_tokens=4).summary
    assert summary.passed
    assert "random token ids" in summary.text


def test_logits_that_are_not_numbers_fail_whatever_the_rest(
    copy: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TokenSequence.append

    def poisoned(self: TokenSequence, tokens: Any, logits: Any = "all") -> Any:
        result = real(self, tokens, logits)
        if result is not None and self.length > 40:
            result[-1] = np.nan
        return result

    monkeypatch.setattr(TokenSequence, "append", poisoned)
    report = verify(copy, checkpoint, max_length=50, greedy_tokens=4)
    assert not report.summary.passed
    assert report.summary.max_rel_diff is None
    text = (copy / "sc2onnx.json").read_text()
    assert "NaN" not in text
    assert Manifest.from_json(text).verification == report.summary
    assert "not a number" in (copy / "README.md").read_text()


def test_pooling_keeps_what_is_not_a_number_wherever_it_stands() -> None:
    good, bad = (
        Difference(1, 1, value, value, value, value, value, value, value)
        for value in (1e-7, math.nan)
    )
    for parts in ([good, bad], [bad, good]):
        assert all(
            math.isnan(getattr(pool(parts), name))
            for name in ("max_abs_diff", "max_rel_diff", "kl_divergence", "nll")
        )


def test_the_mean_nll_is_over_the_tokens_that_are_known() -> None:
    rng = np.random.default_rng(0)
    logits, following = rng.standard_normal((4, 10)).astype(np.float32), np.array([1, 2, 3])
    whole = compare(logits, logits, following)
    single = pool(
        [compare(logits[i : i + 1], logits[i : i + 1], following[i : i + 1]) for i in range(4)]
    )
    assert single.nll == pytest.approx(whole.nll)
    assert (single.positions, single.known) == (4, 3)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_an_outcome_that_cannot_be_recorded_is_still_the_outcome(
    copy: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.replace", refused)
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    with pytest.warns(UserWarning, match=os.strerror(number)):
        report = verify(copy, checkpoint, max_length=8, greedy_tokens=4)
    assert report.summary.passed
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_the_outcome_of_one_bundle_is_not_recorded_in_another(copy: Path, checkpoint: Path) -> None:
    report = verify(copy, checkpoint, max_length=8, greedy_tokens=4, keep=False)
    assert Manifest.read(copy).verification is None
    other = replace(report, compared=replace(report.compared, precision="int8"))
    with pytest.warns(UserWarning, match="another bundle has taken its place"):
        assert not record(copy, other)
    assert record(copy, report)
    assert Manifest.read(copy).verification == report.summary


@pytest.mark.parametrize("damage", ["smaller", "truncated", "garbage"])
def test_another_or_a_damaged_checkpoint_is_refused(
    copy: Path, checkpoint: Path, tmp_path: Path, damage: str
) -> None:
    other = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    weights = other / "model.safetensors"
    if damage == "smaller":
        config = transformers.Starcoder2Config(
            vocab_size=100,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
        transformers.Starcoder2ForCausalLM(config).save_pretrained(other)
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:5_000_000])
    else:
        weights.write_bytes(b"garbage" * 1000)
    with pytest.raises(
        CheckpointError, match=r"the checkpoint has vocab_size 100, the bundle 4096|could not load"
    ):
        verify(copy, other, max_length=4)


def test_mistakes_are_refused(copy: Path, checkpoint: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.py"
    short.write_text("x = 1\n")
    with pytest.raises(RequestError, match=r"short\.py has \d+ tokens, verification needs 516"):
        verify(copy, checkpoint, text=short)
    with pytest.raises(RequestError, match="cannot be read"):
        verify(copy, checkpoint, text=tmp_path / "absent.py")
    with pytest.raises(CheckpointError, match="transformers could not load"):
        verify(copy, tmp_path / "absent", max_length=4)
    assert Manifest.read(copy).verification is None


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7},
        {"temperature": 1.3, "top_k": 40},
        {"temperature": 0.9, "top_p": 0.9},
        {"temperature": 1.0, "min_p": 0.05},
        {"temperature": 0.8, "top_k": 100, "top_p": 0.8, "min_p": 0.02, "repetition_penalty": 1.3},
    ],
)
def test_the_distribution_drawn_from_is_that_of_transformers(settings: dict[str, Any]) -> None:
    from transformers.generation import logits_process as hf

    rng = np.random.default_rng(5)
    seen = rng.integers(0, 4096, 60)
    scores = (rng.standard_normal(4096) * 3).astype(np.float32)
    chain: list[Any] = []
    if "repetition_penalty" in settings:
        chain.append(hf.RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"]))
    chain.append(hf.TemperatureLogitsWarper(settings["temperature"]))
    if "top_k" in settings:
        chain.append(hf.TopKLogitsWarper(settings["top_k"]))
    if "top_p" in settings:
        chain.append(hf.TopPLogitsWarper(settings["top_p"]))
    if "min_p" in settings:
        chain.append(hf.MinPLogitsWarper(settings["min_p"]))
    warped = hf.LogitsProcessorList(chain)(
        torch.from_numpy(seen)[None], torch.from_numpy(scores)[None].clone()
    )
    expected = warped[0].softmax(-1).numpy()
    parameters = SamplingParameters(**settings)
    tokens, probabilities = candidates(
        Sampler(parameters, seen, 4096).penalised(scores), parameters
    )
    assert tokens.tolist() == np.flatnonzero(expected).tolist()
    np.testing.assert_allclose(probabilities, expected[tokens], rtol=1e-4)
