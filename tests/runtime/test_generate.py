from __future__ import annotations

import gc
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import sc2onnx
from sc2onnx.errors import (
    ContextLengthError,
    EmptyPromptError,
    RequestError,
    SamplingError,
    TokenIdError,
    TokenizerError,
)
from sc2onnx.runtime.choose.parameters import SamplingParameters
from sc2onnx.runtime.choose.sampling import Sampler
from sc2onnx.runtime.options import GenerationOptions

PROMPTS = ["def fib(n):\n", "import os\n\n\ndef main(", "class Node:\n    def __init__(self", "x"]


def test_greedy_tokens_are_those_of_torch(
    model: sc2onnx.Model, reference: Mapping[str, npt.NDArray[Any]]
) -> None:
    tokens = model.generate_tokens(
        reference["tokens"][:40], max_new_tokens=len(reference["greedy"]), stop_tokens=()
    )
    assert [token.id for token in tokens] == reference["greedy"].tolist()


def test_a_completion_has_text_tokens_and_a_reason(model: sc2onnx.Model) -> None:
    done = model.generate(PROMPTS[0], max_new_tokens=12, logprobs=True)
    assert done.finish_reason == "length"
    assert len(done.tokens) == 12
    assert done.prompt_tokens == len(model.codec.encode(PROMPTS[0]))
    assert done.logprobs is not None
    assert len(done.logprobs) == 12
    assert all(value <= 0 for value in done.logprobs)
    assert done.text == "".join(model.codec.token_bytes(token).decode() for token in done.tokens)
    assert model.generate(PROMPTS[0], max_new_tokens=12).logprobs is None


def test_logprobs_are_those_of_the_logits(model: sc2onnx.Model) -> None:
    done = model.generate(PROMPTS[0], max_new_tokens=8, temperature=1.5, seed=1, logprobs=True)
    with model.sequence() as sequence:
        logits = sequence.append([*model.codec.encode(PROMPTS[0]), *done.tokens])
    assert logits is not None
    rows = logits[done.prompt_tokens - 1 : -1].astype(np.float64)
    expected = rows[np.arange(8), list(done.tokens)] - np.log(np.exp(rows).sum(-1))
    assert done.logprobs == pytest.approx(expected, abs=1e-4)


def test_the_stream_is_the_completion_in_pieces(forgetful: sc2onnx.Model) -> None:
    options: dict[str, Any] = {
        "max_new_tokens": 40,
        "temperature": 0.8,
        "top_p": 0.95,
        "top_k": 50,
        "min_p": 0.01,
        "seed": 7,
        "logprobs": True,
    }
    done = forgetful.generate(PROMPTS[1], **options)
    pieces = list(forgetful.stream(PROMPTS[1], **options))
    assert "".join(piece.text for piece in pieces) == done.text
    assert tuple(token for piece in pieces for token in piece.tokens) == done.tokens
    assert tuple(value for piece in pieces for value in piece.logprobs or ()) == pytest.approx(
        done.logprobs, abs=1e-5
    )  # steps of other lengths round otherwise
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + [
        done.finish_reason
    ]
    assert all(piece.text for piece in pieces[:-1])


def test_a_batch_gives_what_each_prompt_gives_alone(model: sc2onnx.Model) -> None:
    together = model.generate(PROMPTS, max_new_tokens=48)
    alone = [model.generate(prompt, max_new_tokens=48) for prompt in PROMPTS]
    assert together == alone


def test_a_batch_past_the_window_and_with_rows_that_end_early(forgetful: sc2onnx.Model) -> None:
    prompts = ["import sys\n" * 150, "def f(x):\n    return", "a = [" + "1, " * 300]
    options: dict[str, Any] = {"max_new_tokens": 30, "stop": ["\n"]}
    together = forgetful.generate(prompts, **options)
    assert together == [forgetful.generate(prompt, **options) for prompt in prompts]
    options |= {"temperature": 0.7, "seed": 11}
    assert forgetful.generate(prompts, **options)[0] == forgetful.generate(prompts[0], **options)
    assert len({len(done.tokens) for done in together}) > 1
    assert forgetful.memory_footprint().cache == 0


def test_an_empty_batch_is_an_empty_answer(model: sc2onnx.Model) -> None:
    assert model.generate([]) == []


def test_stop_strings_cut_the_text_also_across_tokens(model: sc2onnx.Model) -> None:
    full = model.generate(PROMPTS[0], max_new_tokens=40)
    middle = len(full.text) // 2
    stop = full.text[middle - 3 : middle + 4]
    cut = model.generate(PROMPTS[0], max_new_tokens=40, stop=["nowhere to be found", stop])
    assert cut.finish_reason == "stop"
    assert cut.text == full.text[: full.text.index(stop)]
    assert cut.tokens == full.tokens[: len(cut.tokens)]
    assert (
        "".join(piece.text for piece in model.stream(PROMPTS[0], max_new_tokens=40, stop=stop))
        == cut.text
    )


def test_stop_tokens_end_it_and_are_not_in_it(model: sc2onnx.Model) -> None:
    full = model.generate(PROMPTS[0], max_new_tokens=20)
    chosen = full.tokens[6]
    done = model.generate(PROMPTS[0], max_new_tokens=20, stop_tokens=[chosen])
    assert done.finish_reason == "stop"
    assert done.tokens == full.tokens[: full.tokens.index(chosen)]


def test_the_default_stop_tokens_are_those_that_end_code(model: sc2onnx.Model) -> None:
    names = (
        "<|endoftext|>",
        "<file_sep>",
        "<fim_prefix>",
        "<fim_middle>",
        "<fim_suffix>",
        "<fim_pad>",
    )
    assert model.requests.rules(GenerationOptions()).stop_tokens == {
        model.codec.special_id(name) for name in names
    }


def test_infilling_ends_by_itself_and_reads_the_suffix(model: sc2onnx.Model) -> None:
    prefix = (
        "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def "
        "push(self, item):\n        self."
    )
    suffix = "(item)\n\n    def pop(self):\n        return self.items.pop()\n"
    done = model.infill(prefix, suffix, max_new_tokens=40)
    # by the model's own end token: max_new_tokens was not reached
    assert done.finish_reason == "stop"
    assert 0 < len(done.tokens) < 40
    assert (
        "".join(piece.text for piece in model.stream_infill(prefix, suffix, max_new_tokens=40))
        == done.text
    )
    assert model.infill(prefix, "\n\nimport os\n", max_new_tokens=40).text != done.text


def test_infilling_takes_path_repository_and_other_files(model: sc2onnx.Model) -> None:
    plain = model.infill("a", "b", max_new_tokens=1)
    full = model.infill(
        "a", "b", path="x.py", repo="me/it", files={"y.py": "c = 1\n"}, max_new_tokens=1
    )
    assert full.prompt_tokens > plain.prompt_tokens


def test_the_context_ends_a_generation(model: sc2onnx.Model) -> None:
    prompt = "a" + " a" * 2044
    done = model.generate(prompt, max_new_tokens=100, stop_tokens=())
    assert done.finish_reason == "length"
    # the last token needs no place, nothing follows it
    assert done.prompt_tokens + len(done.tokens) == 2049
    with pytest.raises(
        ContextLengthError, match=r"the prompt is 2\d{3} tokens, the model's context holds 2048"
    ):
        model.generate("a" + " a" * 2100)
    with pytest.raises(ContextLengthError):
        model.stream("a" + " a" * 2100)  # at once, not at the first piece


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prompt": ""}, EmptyPromptError, "the prompt is empty"),
        ({"prompt": ["a", ""]}, EmptyPromptError, "the prompt is empty"),
        (
            {"max_new_tokens": 0},
            RequestError,
            "max_new_tokens is 0, expected a whole number from 1",
        ),
        ({"max_new_tokens": 2.5}, RequestError, "max_new_tokens is 2.5"),
        ({"temperature": -1}, SamplingError, "temperature is -1"),
        ({"stop": ""}, RequestError, "expected strings that are not empty"),
        ({"stop": ["a", ""]}, RequestError, "expected strings that are not empty"),
        ({"stop_tokens": [10**9]}, TokenIdError, "token id 1000000000 is outside the vocabulary"),
        ({"stop_tokens": "ab"}, TokenIdError, "expected whole numbers"),
    ],
)
def test_impossible_requests_are_refused(
    model: sc2onnx.Model, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.generate(**{"prompt": "a", **options})


def test_without_a_tokenizer_tokens_work_and_text_says_what_is_missing(
    token_bundle: Path, reference: Mapping[str, npt.NDArray[Any]]
) -> None:
    model = sc2onnx.load(token_bundle)
    tokens = [
        token.id for token in model.generate_tokens(reference["tokens"][:40], max_new_tokens=8)
    ]
    assert tokens == reference["greedy"][:8].tolist()
    with model.sequence() as sequence:
        assert sequence.append([1, 2]) is not None
    for call in (
        lambda: model.generate("a"),
        lambda: model.stream("a"),
        lambda: model.infill("a", "b"),
    ):
        with pytest.raises(TokenizerError, match=r"no tokenizer\.json.*model\.sequence\(\)"):
            call()


def test_closing_a_stream_stops_it_and_frees_its_cache(forgetful: sc2onnx.Model) -> None:
    with forgetful.stream(PROMPTS[0], max_new_tokens=500) as stream:
        next(stream)
        assert forgetful.memory_footprint().cache > 0
    assert forgetful.memory_footprint().cache == 0
    assert list(stream) == []
    never_started = forgetful.stream(PROMPTS[0])
    never_started.close()
    assert list(never_started) == []


def test_a_forgotten_stream_frees_its_cache_at_once(bundle: Path) -> None:
    model = sc2onnx.load(bundle, prefix_memory=0)
    # the cyclic collector knows nothing of the size of numpy arrays and may not come for long
    gc.disable()
    try:
        for _ in model.stream(PROMPTS[0]):
            break
        assert model.memory_footprint().cache == 0
    finally:
        gc.enable()


def test_a_stop_string_completed_by_the_last_bytes_is_a_stop(
    model: sc2onnx.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a character at the end becomes U+FFFD only when nothing follows."""
    half = next(token for token in range(4096) if model.codec.token_bytes(token) == b"\xc3")
    monkeypatch.setattr(Sampler, "draw", lambda self, logits: half)
    done = model.generate("a", max_new_tokens=1, stop="\ufffd")
    assert (done.text, done.finish_reason) == ("", "stop")
    (piece,) = model.stream("a", max_new_tokens=1, stop="\ufffd")
    assert (piece.text, piece.finish_reason) == ("", "stop")


def test_a_finished_stream_has_freed_its_cache(forgetful: sc2onnx.Model) -> None:
    stream = forgetful.stream(PROMPTS[0], max_new_tokens=3)
    list(stream)
    assert forgetful.memory_footprint().cache == 0


def test_closing_from_another_thread_stops_a_long_prefill(bundle: Path) -> None:
    model = sc2onnx.load(bundle, prefill_chunk=1792, cache_capacity=2048, prefix_memory=0)
    prompt = "import os\n" * 590
    began = time.perf_counter()
    list(model.stream(prompt, max_new_tokens=1))
    whole = time.perf_counter() - began
    stream = model.stream(prompt, max_new_tokens=1)
    timer = threading.Timer(whole / 10, stream.close)
    timer.start()
    began = time.perf_counter()
    pieces = list(stream)
    timer.join()
    assert pieces == []
    assert time.perf_counter() - began < whole * 0.8
    assert model.memory_footprint().cache == 0


def test_threads_share_a_model(model: sc2onnx.Model) -> None:
    alone = [
        model.generate(prompt, max_new_tokens=32, temperature=0.8, seed=i)
        for i, prompt in enumerate(PROMPTS * 2)
    ]
    with ThreadPoolExecutor(8) as pool:
        futures = [
            pool.submit(model.generate, prompt, max_new_tokens=32, temperature=0.8, seed=i)
            for i, prompt in enumerate(PROMPTS * 2)
        ]
    assert [future.result() for future in futures] == alone


def test_the_footprint_is_what_was_built_and_what_is_resident(bundle: Path) -> None:
    model = sc2onnx.load(bundle)
    fresh = model.memory_footprint()
    assert fresh.weights == model.manifest.weight_bytes
    assert (fresh.cache, fresh.total) == (0, fresh.weights)
    with model.sequence() as sequence:
        sequence.append(np.full(600, 7), logits=None)
        used = model.memory_footprint()
        assert used.cache == 512 * 6 * 2 * 2 * 64 * 4
        assert used.total == used.weights + used.cache
        if used.resident_total is not None:
            assert used.resident_weights is not None
            assert used.resident_private is not None
            assert 0.5 * used.weights < used.resident_weights < used.resident_total
            assert used.cache < used.resident_private < used.resident_total


def test_the_likeliest_tokens_are_those_of_the_logits(model: sc2onnx.Model) -> None:
    done = model.generate("def add(a, b):\n", max_new_tokens=5, logprobs=True, top_logprobs=4)
    assert done.top_logprobs is not None
    ids = [*model.codec.encode("def add(a, b):\n"), *done.tokens]
    with model.sequence() as sequence:
        logits = sequence.append(ids)
    assert logits is not None
    for place, (token, found) in enumerate(zip(done.tokens, done.top_logprobs, strict=True)):
        row = logits[len(ids) - len(done.tokens) - 1 + place].astype(np.float64)
        expected = row - row.max() - np.log(np.exp(row - row.max()).sum())
        assert [id for id, _ in found] == np.argsort(-expected, kind="stable")[:4].tolist()
        assert [value for _, value in found] == pytest.approx(sorted(expected)[:-5:-1], abs=1e-4)
        assert found[0][0] == token
    assert model.generate("def add(a, b):\n", max_new_tokens=5, logprobs=True).top_logprobs is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_logprobs": 3},
        {"top_logprobs": 21, "logprobs": True},
        {"top_logprobs": -1, "logprobs": True},
    ],
)
def test_likeliest_tokens_are_bounded_and_go_with_log_probabilities(
    model: sc2onnx.Model, wrong: dict[str, Any]
) -> None:
    with pytest.raises(RequestError, match="top_logprobs is"):
        model.generate("def f():", **wrong)


def test_a_bias_is_added_to_logits_before_all_else(model: sc2onnx.Model) -> None:
    logits = np.array([1.0, 2.0, 3.0, -1.0], dtype=np.float32)
    sampler = Sampler(
        SamplingParameters(logit_bias={2: -1.5, 3: 4.0}, repetition_penalty=2.0), np.array([3]), 4
    )
    assert sampler.penalised(logits).tolist() == [1.0, 2.0, 1.5, 1.5]  # 3.0 is halved: it was seen
    assert logits.tolist() == [1.0, 2.0, 3.0, -1.0]
    assert not Sampler(SamplingParameters(logit_bias={2: 1}), np.array([3]), 4).greedy
    wanted = model.codec.encode("import")[0]
    assert set(model.generate("x = ", max_new_tokens=6, logit_bias={wanted: 100}).tokens) == {
        wanted
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {1: 101},
        {-1: 0},
        {"a": 1},
        {1: "x"},
        5,
        {1: float("nan")},
        dict.fromkeys(range(2000), 0),
        {10**9: 1},
    ],
)
def test_a_bias_that_is_none_is_refused(model: sc2onnx.Model, wrong: Any) -> None:
    with pytest.raises(RequestError, match="logit_bias is"):
        model.generate("x = ", logit_bias=wrong)
