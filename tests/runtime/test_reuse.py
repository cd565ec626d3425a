"""Requests that begin alike, end to end: what a model answers with kept caches is what
one without them answers.
"""

from __future__ import annotations

import argparse
import ast
import gc
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import sc2onnx
from sc2onnx.errors import CancelledError, InferenceError, RequestError
from sc2onnx.runtime.ort.binding import Step
from sc2onnx.runtime.results import Token
from tests.runtime.rows import prefilled

TOLERANCE = 1e-5  # of the largest logit, as the verifier's
FULL = 512 * 6 * 2 * 2 * 64 * 4  # bytes of a sequence of the mini checkpoint at its full capacity

CODE = Path(argparse.__file__).read_text(encoding="utf-8")
OTHER = Path(ast.__file__).read_text(encoding="utf-8")


@pytest.fixture
def model(bundle: Path) -> sc2onnx.Model:
    return sc2onnx.load(bundle)


@pytest.fixture(scope="module")
def code(bundle: Path) -> list[int]:
    return sc2onnx.load(bundle).codec.encode(CODE, special=False)


@pytest.fixture(scope="module")
def other(bundle: Path) -> list[int]:
    return sc2onnx.load(bundle).codec.encode(OTHER, special=False)


def ask(model: sc2onnx.Model, prompt: list[int], count: int = 6) -> list[int]:
    return [
        token.id for token in model.generate_tokens(prompt, max_new_tokens=count, stop_tokens=())
    ]


def assert_exact(model: sc2onnx.Model, forgetful: sc2onnx.Model, prompt: list[int]) -> int:
    """Same logits and same greedy tokens as without reuse; how many tokens were reused."""
    expected, none = prefilled(forgetful, prompt)
    assert none == 0
    logits, reused = prefilled(model, prompt)
    assert np.abs(logits - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert ask(model, prompt) == ask(forgetful, prompt)
    return reused


Edit = Callable[[list[int]], list[int]]


@pytest.mark.parametrize("size", [40, 200, 500, 700, 1500])
@pytest.mark.parametrize(
    ("edit", "least"),
    [
        pytest.param(lambda ids: ids, 1, id="the same again"),
        pytest.param(lambda ids: [*ids, 7, 8, 9], 0, id="appended"),
        pytest.param(lambda ids: [*ids[:-1], 7], 1, id="a typed character"),
        pytest.param(lambda ids: ids[:-12], 13, id="the cursor moved back"),
        pytest.param(lambda ids: [*ids[:-20], *ids[-10:]], 20, id="a deleted line near the end"),
        pytest.param(
            lambda ids: [*ids[:-20], 5, 6, *ids[-20:]], 20, id="an inserted word near the end"
        ),
    ],
)
def test_an_edited_prompt_is_answered_exactly_and_its_beginning_reused(
    model: sc2onnx.Model,
    forgetful: sc2onnx.Model,
    code: list[int],
    edit: Edit,
    least: int,
    size: int,
) -> None:
    before = code[:size]
    ask(model, before)
    assert size - least <= assert_exact(model, forgetful, edit(before)) < len(edit(before))


@pytest.mark.parametrize("size", [600, 700, 1500])
def test_past_the_window_what_cannot_be_rewound_exactly_is_computed_again(
    model: sc2onnx.Model, forgetful: sc2onnx.Model, code: list[int], size: int
) -> None:
    ask(model, code[:size])
    edited = [*code[:100], *code[110:size]]
    assert assert_exact(model, forgetful, edited) == 0
    kept = model.engine.store.seats
    assert any(seat.earliest > 100 for seat in kept)


@pytest.mark.parametrize("size", [100, 250, 600])
def test_switching_between_two_files_finds_both_again(
    model: sc2onnx.Model, forgetful: sc2onnx.Model, code: list[int], other: list[int], size: int
) -> None:
    for first in (code, other):
        assert assert_exact(model, forgetful, first[:size]) == 0
    for typed in range(1, 4):
        for file in (code, other):
            assert assert_exact(model, forgetful, file[: size + typed]) == size + typed - 1


def test_files_after_the_same_context_share_it_and_both_stay(
    model: sc2onnx.Model, forgetful: sc2onnx.Model, code: list[int], other: list[int]
) -> None:
    first, second = [*code[:200], *code[300:400]], [*code[:200], *other[300:400]]
    assert assert_exact(model, forgetful, first) == 0
    assert assert_exact(model, forgetful, second) == 200
    for _ in range(2):
        assert assert_exact(model, forgetful, [*first, 7]) >= 299
        assert assert_exact(model, forgetful, [*second, 7]) >= 299


def test_a_long_sequence_is_not_given_up_for_a_short_beginning(
    model: sc2onnx.Model, code: list[int], other: list[int]
) -> None:
    ask(model, code[:500])
    assert prefilled(model, [*code[:5], *other[100:400]])[1] == 0
    assert prefilled(model, code[:501])[1] == 500


def test_kept_caches_stay_within_their_bytes_and_the_oldest_goes(
    bundle: Path, forgetful: sc2onnx.Model, code: list[int]
) -> None:
    model = sc2onnx.load(bundle, prefix_memory=2 * FULL)
    texts = [code[start : start + 600] for start in (0, 700, 1400)]
    for text in texts:
        ask(model, text)
        assert 0 < model.memory_footprint().cache <= 2 * FULL
    assert len(model.engine.store.seats) == 2
    assert [prefilled(model, text)[1] for text in (texts[2], texts[1])] == [599, 599]
    assert assert_exact(model, forgetful, texts[0]) == 0


def test_two_full_sequences_are_kept_by_default(model: sc2onnx.Model, code: list[int]) -> None:
    assert model.engine.store.limit == 2 * FULL
    ask(model, code[:600])
    ask(model, code[700:1300])
    assert model.memory_footprint().cache == 2 * FULL
    model.forget()
    assert model.memory_footprint().cache == 0
    assert prefilled(model, code[:600])[1] == 0


@pytest.mark.parametrize("limit", [0, 1, FULL - 1])
def test_a_sequence_beyond_the_limit_is_not_kept(bundle: Path, code: list[int], limit: int) -> None:
    model = sc2onnx.load(bundle, prefix_memory=limit)
    ask(model, code[:600])
    assert model.memory_footprint().cache == 0
    assert prefilled(model, code[:600])[1] == 0


@pytest.mark.parametrize("wrong", [-1, 0.5, "1"])
def test_the_limit_is_a_whole_number(bundle: Path, wrong: Any) -> None:
    with pytest.raises(RequestError, match=r"prefix_memory is .*, expected a whole number from 0"):
        sc2onnx.load(bundle, prefix_memory=wrong)


def test_every_kind_of_request_reuses_and_says_so(
    model: sc2onnx.Model, forgetful: sc2onnx.Model
) -> None:
    text, suffix = CODE[:900], CODE[1200:1500]
    first, again = model.generate(text, max_new_tokens=8), model.generate(text, max_new_tokens=8)
    assert (first.reused_tokens, again.reused_tokens) == (0, first.prompt_tokens - 1)
    assert first == again == forgetful.generate(text, max_new_tokens=8)
    with model.stream(text, max_new_tokens=8) as stream:
        assert stream.reused_tokens == 0
        assert "".join(piece.text for piece in stream) == first.text
        assert stream.reused_tokens == first.prompt_tokens - 1
    infilled = model.infill(text, suffix, max_new_tokens=8)
    assert infilled == forgetful.infill(text, suffix, max_new_tokens=8)
    with model.stream_infill(text, suffix, max_new_tokens=8) as stream:
        assert "".join(piece.text for piece in stream) == infilled.text
        assert stream.reused_tokens == infilled.prompt_tokens - 1
    typed = model.infill(text + "\n", suffix, max_new_tokens=8)
    assert typed == forgetful.infill(text + "\n", suffix, max_new_tokens=8)
    assert 0 < typed.reused_tokens < typed.prompt_tokens


def test_an_accepted_completion_is_reused_with_the_prompt(
    model: sc2onnx.Model, forgetful: sc2onnx.Model, code: list[int]
) -> None:
    answer = ask(model, code[:300], 20)
    # the last token was drawn, never computed
    assert assert_exact(model, forgetful, [*code[:300], *answer]) == 319


def test_batches_leave_what_they_computed_and_sequences_nothing(model: sc2onnx.Model) -> None:
    prompts = [CODE[:300], OTHER[:300]]
    first = model.generate(prompts, max_new_tokens=3)
    with model.sequence() as sequence:
        sequence.append([1, 2, 3])
    again = model.generate(prompts, max_new_tokens=3)
    assert again == first
    assert [done.reused_tokens for done in first] == [0, 0]
    assert [done.reused_tokens for done in again] == [done.prompt_tokens - 1 for done in first]
    model.forget()
    assert model.memory_footprint().cache == 0


@pytest.mark.parametrize("size", [200, 700])
def test_a_stream_closed_midway_leaves_what_it_computed(
    model: sc2onnx.Model, forgetful: sc2onnx.Model, code: list[int], size: int
) -> None:
    tokens = model.generate_tokens(code[:size], max_new_tokens=50, stop_tokens=())
    begun = [next(tokens).id for _ in range(5)]
    tokens.close()
    # more where a draft was right
    assert assert_exact(model, forgetful, [*code[:size], *begun, 7]) >= size + 4


def test_a_forgotten_stream_leaves_its_cache_at_once(model: sc2onnx.Model) -> None:
    gc.disable()
    try:
        for _ in model.stream(CODE[:600]):
            break
        assert len(model.engine.store.seats) == 1
    finally:
        gc.enable()
    assert model.generate(CODE[:600], max_new_tokens=1).reused_tokens > 0
    model.stream(CODE[:600]).close()  # one that never started took nothing
    assert model.generate(CODE[:600], max_new_tokens=1).reused_tokens > 0


@pytest.fixture
def fail_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, BaseException], None]]:
    """Makes the n-th step from now on fail after it has written to the cache."""
    real, countdown = Step.run, dict[str, Any]()

    def run(self: Step, *arguments: Any, **choice: Any) -> npt.NDArray[np.float32]:
        result = real(self, *arguments, **choice)
        if countdown:
            countdown["left"] -= 1
            if countdown["left"] == 0:
                raise countdown["error"]
        return result

    monkeypatch.setattr(Step, "run", run)
    yield lambda left, error: countdown.update(left=left, error=error)
    countdown.clear()


@pytest.mark.parametrize(
    "error",
    [CancelledError("closed"), InferenceError("broken"), KeyboardInterrupt(), MemoryError()],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.parametrize("step", [2, 3, 5])
def test_after_a_failed_step_the_tokens_before_it_are_reused_exactly(
    model: sc2onnx.Model,
    forgetful: sc2onnx.Model,
    code: list[int],
    fail_at: Callable[[int, BaseException], None],
    error: BaseException,
    step: int,
) -> None:
    fail_at(step, error)
    # steps of 256, 256 and 188 tokens, then of one
    stream = model.generate_tokens(code[:700], max_new_tokens=6, stop_tokens=())
    if isinstance(error, CancelledError):
        list(stream)
        assert stream.finish_reason == "cancelled"
    else:
        with pytest.raises(type(error)):
            list(stream)
        assert stream.finish_reason is None
    fail_at(-1, error)
    held = {2: 256, 3: 512, 5: 701}[step]
    (kept,) = model.engine.store.sequences
    assert len(kept.tokens) == held
    # the drawn token may be that of the text
    assert min(held, 700) <= assert_exact(model, forgetful, code[:800]) <= held


def test_closing_from_another_thread_in_a_prefill_leaves_the_rows_as_before(
    model: sc2onnx.Model, forgetful: sc2onnx.Model, code: list[int]
) -> None:
    for delay in (0.005, 0.02, 0.05, 0.1):
        ask(model, code[:600], 1)
        prompt = b"".join(map(model.codec.token_bytes, code[:1800])).decode()
        stream = model.stream(prompt, max_new_tokens=1)
        timer = threading.Timer(delay, stream.close)
        timer.start()
        list(stream)
        timer.join()
        assert_exact(model, forgetful, code[:620])
        model.forget()


def test_a_signal_handler_may_close_streams_while_caches_change_hands(
    model: sc2onnx.Model, forgetful: sc2onnx.Model
) -> None:
    streams = [model.stream(CODE[:200], max_new_tokens=4) for _ in range(30)]
    for stream in streams:
        next(stream)
    waiting = list(streams)

    def handler(*_: object) -> None:
        if waiting:  # else the timer would go off when nobody handles it any more
            waiting.pop().close()
            signal.setitimer(signal.ITIMER_REAL, 0.002)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.002)
        while waiting:
            done = model.generate(CODE[:200], max_new_tokens=2)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert done == forgetful.generate(CODE[:200], max_new_tokens=2)


def test_threads_that_ask_the_same_never_share_a_cache(
    model: sc2onnx.Model, forgetful: sc2onnx.Model, code: list[int]
) -> None:
    prompts = [[*code[:200], *code[start : start + 30]] for start in range(210, 250, 10)] * 3
    expected = [ask(forgetful, prompt, 12) for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda prompt: ask(model, prompt, 12), prompts)) == expected


def test_two_that_run_at_once_have_different_caches(model: sc2onnx.Model, code: list[int]) -> None:
    ask(model, code[:300])
    running: list[Iterator[Token]] = [
        model.generate_tokens(code[:300], max_new_tokens=5, stop_tokens=()) for _ in range(2)
    ]
    interleaved = [[next(tokens).id for tokens in running] for _ in range(5)]
    assert all(a == b for a, b in interleaved)
    for tokens in running:
        assert list(tokens) == []
    assert len(model.engine.store.seats) == 1  # the second says nothing that the first does not


def test_running_out_of_memory_while_copying_gives_the_kept_cache_itself(
    model: sc2onnx.Model,
    forgetful: sc2onnx.Model,
    code: list[int],
    other: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(self: object, *_: object) -> Any:
        raise MemoryError

    ask(model, code[:400])
    with monkeypatch.context() as patch:
        patch.setattr("sc2onnx.runtime.engine.stacks.StackSeat.copy", failing)
        assert assert_exact(model, forgetful, [*code[:200], *other[:150]]) == 200


def test_values_that_are_not_finite_are_not_kept(
    model: sc2onnx.Model, code: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Step,
        "run",
        lambda self, tokens, past, wanted, **_: np.full((1, wanted, 4096), np.nan, np.float32),
    )
    with pytest.raises(InferenceError, match="not finite"):
        ask(model, code[:100])
    assert model.memory_footprint().cache == 0


def test_typing_reuses_the_suffix_where_it_comes_first(
    model: sc2onnx.Model, forgetful: sc2onnx.Model
) -> None:
    prefix, suffix = CODE[:400], CODE[900:1300]
    model.infill(prefix, suffix, order="spm", max_new_tokens=4)
    typed = model.infill(prefix + "\n\nx", suffix, order="spm", max_new_tokens=4)
    assert typed == forgetful.infill(prefix + "\n\nx", suffix, order="spm", max_new_tokens=4)
    assert typed.prompt_tokens - typed.reused_tokens < 6
    with model.stream_infill(prefix, suffix, order="spm", max_new_tokens=4) as stream:
        assert (
            "".join(piece.text for piece in stream)
            == forgetful.infill(prefix, suffix, order="spm", max_new_tokens=4).text
        )
    model.forget()
    model.infill(prefix, suffix, max_new_tokens=4)
    behind = model.infill(prefix + "\n\nx", suffix, max_new_tokens=4)
    assert behind.prompt_tokens - behind.reused_tokens > len(model.codec.encode(suffix))
