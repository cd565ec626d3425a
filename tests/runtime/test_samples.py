"""Several samples of a prompt, rows of a batch, and what a seed and log
probabilities promise of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sc2onnx
from sc2onnx.runtime.ort.binding import Step

PROMPT = "def f("
SAMPLED: dict[str, Any] = {"temperature": 1.0, "seed": 1, "max_new_tokens": 12}


def test_n_gives_different_samples_that_come_again(forgetful: sc2onnx.Model) -> None:
    samples = forgetful.generate(PROMPT, n=6, **SAMPLED)
    assert len({sample.text for sample in samples}) == 6
    assert forgetful.generate(PROMPT, n=6, **SAMPLED) == samples
    assert forgetful.generate(PROMPT, n=3, **SAMPLED) == samples[:3]  # more of them change none
    assert forgetful.generate(PROMPT, n=6, **{**SAMPLED, "seed": 2}) != samples


def test_the_first_sample_is_that_of_a_single_prompt(forgetful: sc2onnx.Model) -> None:
    alone = forgetful.generate(PROMPT, **SAMPLED)
    assert isinstance(alone, sc2onnx.Completion)
    assert forgetful.generate(PROMPT, n=1, **SAMPLED) == [alone]
    assert forgetful.generate(PROMPT, n=4, **SAMPLED)[0] == alone
    assert forgetful.generate([PROMPT] * 4, **SAMPLED)[0] == alone
    assert "".join(piece.text for piece in forgetful.stream(PROMPT, **SAMPLED)) == alone.text


def test_equal_prompts_of_a_list_differ_with_a_seed(forgetful: sc2onnx.Model) -> None:
    rows = forgetful.generate([PROMPT] * 4, **SAMPLED)
    assert len({row.text for row in rows}) == 4
    assert forgetful.generate([PROMPT] * 4, **SAMPLED) == rows
    other = forgetful.generate(["x", PROMPT, "import"], **SAMPLED)
    assert other[1] == rows[1]  # a row's stream is its place in the list, whatever stands beside it


def test_n_of_several_prompts_is_a_list_for_each(forgetful: sc2onnx.Model) -> None:
    found = forgetful.generate([PROMPT, "x = "], n=2, **SAMPLED)
    assert [len(samples) for samples in found] == [2, 2]
    assert found[0] == forgetful.generate(PROMPT, n=2, **SAMPLED)
    assert [samples[0] for samples in found] == forgetful.generate([PROMPT, "x = "], **SAMPLED)
    texts = [
        sample.text
        for samples in forgetful.generate([PROMPT] * 3, n=3, **SAMPLED)
        for sample in samples
    ]
    assert len(set(texts)) == 9


def test_without_a_seed_samples_differ_and_greedy_ones_do_not(forgetful: sc2onnx.Model) -> None:
    assert (
        len(
            {
                sample.text
                for sample in forgetful.generate(PROMPT, n=4, temperature=1.0, max_new_tokens=12)
            }
        )
        > 1
    )
    greedy = forgetful.generate(PROMPT, n=3, max_new_tokens=12)
    assert greedy == [forgetful.generate(PROMPT, max_new_tokens=12)] * 3


def test_samples_beyond_a_batch_share_one_prefill(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sc2onnx.load(bundle, max_batch=3, prefix_memory=0, speculate=False)
    expected = model.generate(PROMPT, n=7, **SAMPLED)
    real, count = Step.run, 0

    def counted(self: Step, tokens: np.ndarray[Any, Any], *args: Any, **options: Any) -> Any:
        nonlocal count
        count += tokens.shape[1] > 1
        return real(self, tokens, *args, **options)

    monkeypatch.setattr(Step, "run", counted)
    assert model.generate(PROMPT, n=7, **SAMPLED) == expected
    assert count == 1
    assert model.generate([PROMPT, "x = ", PROMPT], **SAMPLED)[0] == expected[0]
    assert count == 3
    assert model.memory_footprint().cache == 0


def test_samples_past_the_window_are_exact(forgetful: sc2onnx.Model) -> None:
    prompt = "import sys\n" * 150
    greedy = forgetful.generate(prompt, max_new_tokens=20)
    assert forgetful.generate(prompt, n=3, max_new_tokens=20) == [greedy] * 3


def test_samples_reuse_what_was_left_and_leave_their_prompt(bundle: Path) -> None:
    model = sc2onnx.load(bundle)
    prompt = "import os\n\n\ndef main(argv):\n    "
    first = model.generate(prompt, n=2, **SAMPLED)
    assert [sample.reused_tokens for sample in first] == [0, 0]
    again = model.generate(prompt + "x", n=2, **SAMPLED)
    assert all(sample.reused_tokens >= first[0].prompt_tokens - 2 for sample in again)
    assert model.generate(prompt, **SAMPLED).reused_tokens == first[0].prompt_tokens - 1


def test_samples_heal(forgetful: sc2onnx.Model) -> None:
    options: dict[str, Any] = {"heal": True, "max_new_tokens": 8}
    assert (
        forgetful.generate("def f(x):\n    retur", n=2, **options)
        == [forgetful.generate("def f(x):\n    retur", **options)] * 2
    )


def test_log_probabilities_are_the_same_to_the_bit_where_the_computation_is(bundle: Path) -> None:
    """Of requests that are computed alone, however they are asked for and whatever came before."""
    options: dict[str, Any] = {
        "max_new_tokens": 48,
        "temperature": 0.8,
        "seed": 3,
        "logprobs": True,
    }
    prompt = "for i in range(3):\n    print(i)\n" * 6
    model = sc2onnx.load(bundle, prefix_memory=0, speculate=True)
    alone = model.generate(prompt, **options)
    for _ in range(3):  # the costs of steps, and so drafts, are known by now
        model.generate(prompt, max_new_tokens=48)
    streamed = [
        value for piece in model.stream(prompt, **options) for value in piece.logprobs or ()
    ]
    sampling = sc2onnx.SamplingParameters(temperature=0.8, seed=3)
    ids = model.codec.encode(prompt)
    tokens = list(
        model.generate_tokens(
            ids, sampling=sampling, max_new_tokens=48, stop_tokens=(), logprobs=True
        )
    )
    assert alone.logprobs is not None
    assert alone.drafted_tokens == 0
    assert tuple(streamed) == alone.logprobs == model.generate(prompt, **options).logprobs
    assert tuple(token.logprob for token in tokens)[: len(alone.tokens)] == alone.logprobs


def test_log_probabilities_differ_by_rounding_elsewhere(bundle: Path) -> None:
    """Batches, samples, reuse and the token level compute steps of other sizes, which
    round otherwise: 1e-4 in fp32.
    """
    options: dict[str, Any] = {"max_new_tokens": 16, "logprobs": True}
    model = sc2onnx.load(bundle)
    prompts = ["def fib(n):\n    return ", "import os\n\n\ndef main(", "x"]
    alone = [model.generate(prompt, **options) for prompt in prompts]
    reused = [model.generate(prompt, **options) for prompt in prompts]
    together = model.generate(prompts, **options)
    samples = model.generate(prompts[0], n=3, **options)
    for found, expected in [
        *zip(reused, alone, strict=True),
        *zip(together, alone, strict=True),
        *((sample, alone[0]) for sample in samples),
    ]:
        assert found.tokens == expected.tokens
        assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    assert any(done.reused_tokens for done in reused)


def test_special_tokens_are_parsed_or_text(model: sc2onnx.Model) -> None:
    prompt = "x = '<fim_prefix>'<|endoftext|>"
    parsed, text = (
        model.generate(prompt, special_tokens=kind, max_new_tokens=4) for kind in ("parse", "text")
    )
    ids = model.codec.encode(prompt, special=False)
    special = {model.codec.special_id("<fim_prefix>"), model.codec.special_id("<|endoftext|>")}
    assert not special & set(ids)
    assert text.prompt_tokens == len(ids) > parsed.prompt_tokens
    assert (
        text.tokens
        == tuple(token.id for token in model.generate_tokens(ids, max_new_tokens=4, stop_tokens=()))
        or text.finish_reason == "stop"
    )
    assert model.generate(prompt, max_new_tokens=4) == parsed
    stream = model.stream(prompt, special_tokens="text", max_new_tokens=4)
    assert "".join(piece.text for piece in stream) == text.text
    assert stream.prompt_tokens == text.prompt_tokens
    assert model.generate([prompt], special_tokens="text", max_new_tokens=4) == [text]


def test_text_that_ends_in_a_special_token_heals_as_text(model: sc2onnx.Model) -> None:
    prompt = "def f(x):\n    s = '<fim_pre"
    options: dict[str, Any] = {"heal": True, "max_new_tokens": 8}
    healed = model.generate(prompt, special_tokens="text", **options)
    spelt = b"".join(map(model.codec.token_bytes, healed.tokens)).decode(errors="replace")
    assert spelt.endswith(healed.text)
    whole = "s = '<fim_prefix>"
    assert (
        model.generate(whole, special_tokens="text", **options).prompt_tokens
        > model.generate(whole, **options).prompt_tokens
    )


def test_a_spawned_stream_is_numpys() -> None:
    """``SeedSequence(seed)`` is ``default_rng(seed)``, so that seeds give what they always gave."""
    assert (
        np.random.default_rng(np.random.SeedSequence(7, spawn_key=())).random()
        == np.random.default_rng(7).random()
    )
