"""The loop over seats without a model: each request gets what it would get alone."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from sc2onnx.errors import CancelledError, InferenceError, SequenceStateError
from sc2onnx.runtime.engine.costs import StepCosts
from sc2onnx.runtime.engine.lookup import Lookup, Memory
from sc2onnx.runtime.engine.loop import Engine
from sc2onnx.runtime.engine.row import AHEAD, Row
from sc2onnx.runtime.engine.seats import Run
from sc2onnx.runtime.engine.shared_prompt import SharedPrompt
from sc2onnx.runtime.engine.speculate import Drafter
from sc2onnx.runtime.engine.streams import TokenStream
from sc2onnx.runtime.engine.terms import Terms
from tests.runtime.engine.fakes import VOCAB, FakeSeats, engine, failing, row

FORBIDDEN = VOCAB - 1
"""A token of prompts whose passes fail."""


def alone(prompt: Sequence[int], count: int, **options: Any) -> list[int]:
    """What a request gives with nobody beside it."""
    single = engine(FakeSeats())
    return [token.id for token in TokenStream(single, row(prompt, count, **options))]


def read(stream: TokenStream) -> list[int]:
    return [token.id for token in stream]


@pytest.mark.parametrize("together", [True, False])
def test_requests_of_many_threads_are_computed_together(together: bool) -> None:
    seats = FakeSeats(together=together)
    shared = engine(seats, rows=8)
    prompts = [list(range(i, i + 5 + i)) for i in range(8)]
    gate = threading.Barrier(8)

    def ask(prompt: Sequence[int]) -> list[int]:
        stream = TokenStream(shared, row(prompt, 30), submitted=True)
        gate.wait(10)
        return read(stream)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, prompts))
    assert found == [alone(prompt, 30) for prompt in prompts]
    assert max(map(len, seats.passes)) == 8
    assert seats.nbytes == 0


@dataclass(frozen=True)
class Asked:
    """A random request, and what becomes of it."""

    prompt: list[int]
    count: int
    temperature: float
    fate: str


def asked(random: np.random.Generator, common: Sequence[int]) -> Asked:
    begin = list(common[: int(random.integers(0, len(common)))])
    prompt = begin + random.integers(0, VOCAB - 1, int(random.integers(1, 40))).tolist()
    fate = str(random.choice(["whole", "whole", "whole", "cancelled", "fails", "late", "dropped"]))
    if fate == "fails":
        prompt.insert(int(random.integers(0, len(prompt) + 1)), FORBIDDEN)
    return Asked(prompt, int(random.integers(1, 25)), float(random.choice([0.0, 0.9])), fate)


@pytest.mark.parametrize(
    ("together", "own_thread", "count"),
    [(True, False, 1000), (True, True, 300), (False, False, 300), (False, True, 300)],
)
def test_a_thousand_requests_each_get_what_they_get_alone(
    together: bool, own_thread: bool, count: int
) -> None:
    """Of 8 threads: arrivals, lengths, priorities, drafts, cancels,
    failures and deadlines at random.
    """
    random = np.random.default_rng(5)
    common = random.integers(0, VOCAB - 1, 60).tolist()
    requests = [asked(random, common) for _ in range(count)]
    fails = failing(lambda runs: any(FORBIDDEN in run.tokens.tolist() for run in runs))
    seats = FakeSeats(together=together, trouble=fails)
    shared, memory, costs = engine(seats, rows=6, keep=500), Memory(), StepCosts(0.1)
    threads = threading.active_count()
    if own_thread:
        shared.start()

    def ask(number: int) -> tuple[list[int], str | None]:
        request = requests[number]
        late = time.monotonic() if request.fate == "late" else None
        made = row(
            request.prompt,
            request.count,
            temperature=request.temperature,
            seed=number,
            terms=Terms(number % 3, late),
        )
        made.drafter = Drafter(Lookup.of(request.prompt, memory), costs)
        stream = TokenStream(shared, made, submitted=number % 2 == 0)
        given = list[int]()
        if request.fate == "dropped":
            if number % 3:
                next(stream, None)
            return [], None
        for token in stream:
            given.append(token.id)
            if request.fate == "cancelled" and len(given) > request.count // 2:
                stream.close()
        return given, stream.finish_reason

    def outcome(number: int) -> tuple[list[int], str | None]:
        try:
            return ask(number)
        except InferenceError:
            return [], "failed"

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(outcome, range(len(requests))))
    for number, (request, (given, reason)) in enumerate(zip(requests, found, strict=True)):
        if request.fate == "fails":
            assert (given, reason) == ([], "failed")
        elif request.fate == "late":
            assert (given, reason) == ([], "timeout")
        elif request.fate != "dropped":
            expected = alone(
                request.prompt, request.count, temperature=request.temperature, seed=number
            )
            if request.fate == "cancelled":
                expected = expected[: request.count // 2 + 1]
            assert given == expected
    shared.stop()
    gc.collect()
    assert shared.nbytes == shared.store.nbytes <= 500
    shared.forget()
    gc.collect()
    assert seats.nbytes == 0
    assert threading.active_count() == threads
    assert shared.idle


def test_one_rows_failure_is_its_own() -> None:
    fails = failing(lambda runs: any(FORBIDDEN in run.tokens.tolist() for run in runs))
    shared = engine(FakeSeats(trouble=fails))
    good, bad = row([1, 2, 3], 9), row([1, FORBIDDEN, 3], 9)
    streams = [TokenStream(shared, each, submitted=True) for each in (good, bad)]
    assert read(streams[0]) == alone([1, 2, 3], 9)
    with pytest.raises(InferenceError, match="the pass failed"):
        next(streams[1])
    assert read(streams[1]) == []
    assert streams[1].finish_reason is None


def test_an_error_of_a_draw_is_its_rows_own() -> None:
    shared = engine(FakeSeats())
    good, bad = row([1, 2, 3], 9), row([4, 5], 9)

    class Broken:
        def draw(self, logits: object) -> int:
            raise ValueError("no draw")

    bad.sampler = Broken()
    streams = [TokenStream(shared, each, submitted=True) for each in (bad, good)]
    assert read(streams[1]) == alone([1, 2, 3], 9)
    with pytest.raises(ValueError, match="no draw"):
        next(streams[0])


class Tenths(StepCosts):
    """Each further token costs a tenth of a step of one, whatever is measured."""

    def seconds(self, size: int) -> float:
        return 1 + 0.1 * (size - 1)


def test_a_prompt_enters_in_pieces_beside_rows_that_decode() -> None:
    seats = FakeSeats()
    shared = engine(seats, chunk=64)
    shared.steps.costs.steps = Tenths()
    first = TokenStream(shared, row([1], 40), submitted=True)
    next(first)
    second = TokenStream(shared, row(list(range(1, 31)) * 2, 5), submitted=True)
    for _ in range(4):
        next(first)
    entering = [sizes for sizes in seats.passes if len(sizes) == 2 and max(sizes) > 1]
    assert [sum(sizes) for sizes in entering[:3]] == [11, 11, 11]
    assert read(second) == alone(list(range(1, 31)) * 2, 5)


def test_a_newer_request_takes_the_place_of_an_older_one_with_the_same_key() -> None:
    shared = engine(FakeSeats())
    older = TokenStream(
        shared, row([1, 2], 50, terms=Terms(replaces=("client", "file"))), submitted=True
    )
    other = TokenStream(
        shared, row([1, 2], 6, terms=Terms(replaces=("client", "other"))), submitted=True
    )
    next(older)
    newer = TokenStream(
        shared, row([1, 2, 3], 6, terms=Terms(replaces=("client", "file"))), submitted=True
    )
    assert read(newer) == alone([1, 2, 3], 6)
    read(older)
    assert older.finish_reason == "cancelled"
    assert read(other) == alone([1, 2], 6)


def test_a_higher_priority_overtakes() -> None:
    shared = engine(FakeSeats(), rows=1)
    first = TokenStream(shared, row([1], 3), submitted=True)
    warm = TokenStream(shared, row([2], 3, terms=Terms(priority=-1)), submitted=True)
    key = TokenStream(shared, row([3], 3, terms=Terms(priority=1)), submitted=True)
    next(first)
    read(warm)
    assert key.usage.waited < warm.usage.waited
    assert key.generated_tokens == 3


def test_a_slow_reader_holds_nobody_and_gets_all_in_the_end() -> None:
    shared = engine(FakeSeats(), rows=1)
    slow = TokenStream(shared, row([1], 100), submitted=True)
    next(slow)
    quick = TokenStream(shared, row([2], 120), submitted=True)
    assert read(quick) == alone([2], 120)
    assert slow.generated_tokens <= AHEAD + 1
    assert read(slow) == alone([1], 100)[1:]


def test_a_prompt_of_several_rows_is_computed_once() -> None:
    seats = FakeSeats()
    shared, prompt = engine(seats, rows=3, keep=1000), list(range(40))
    common = SharedPrompt(7)
    rows = [row(prompt, 8, temperature=1.0, seed=seed) for seed in range(7)]
    for each in rows:
        each.shared = common
    streams = [TokenStream(shared, each, submitted=True) for each in rows]
    found = [read(stream) for stream in streams]
    assert found == [alone(prompt, 8, temperature=1.0, seed=seed) for seed in range(7)]
    assert sum(max(sizes) for sizes in seats.passes if max(sizes) > 1) == len(prompt)


def test_rows_go_on_where_the_one_that_computes_their_prompt_is_cancelled() -> None:
    shared, prompt, common = engine(FakeSeats(), chunk=8), list(range(40)), SharedPrompt(3)
    rows = [row(prompt, 8) for _ in range(3)]
    for each in rows:
        each.shared = common
    streams = [TokenStream(shared, each, submitted=True) for each in rows]
    threading.Timer(0, streams[0].close).run()
    assert read(streams[1]) == read(streams[2]) == alone(prompt, 8)


def test_an_interrupt_of_the_thread_that_computes_costs_the_others_nothing() -> None:
    class Interrupt(BaseException):
        pass

    strikes = iter([False] * 7 + [True] + [False] * 1000)

    def trouble(runs: Sequence[Run]) -> None:
        if next(strikes):
            raise Interrupt

    shared = engine(FakeSeats(trouble=trouble))
    mine, other = (TokenStream(shared, row([start], 30), submitted=True) for start in (1, 2))
    with pytest.raises(Interrupt):
        read(mine)
    assert read(other) == alone([2], 30)
    assert read(mine) == []
    assert mine.finish_reason is None
    assert 0 < mine.generated_tokens < 30


def test_the_model_is_not_used_in_the_middle_of_its_own_step() -> None:
    found = list[BaseException]()
    streams = list[TokenStream]()

    def trouble(runs: Sequence[Run]) -> None:
        if not found:  # as a signal handler does
            with pytest.raises(SequenceStateError, match="further up in this thread") as caught:
                next(TokenStream(shared, row([9], 3)))
            found.append(caught.value)
            streams[0].close()

    shared = engine(FakeSeats(trouble=trouble))
    streams.append(TokenStream(shared, row([1], 30)))
    assert read(streams[0]) == []
    assert streams[0].finish_reason == "cancelled"


def test_a_thread_of_its_own_computes_and_ends() -> None:
    shared, before = engine(FakeSeats()), threading.enumerate()
    shared.start()
    shared.start()
    streams = [TokenStream(shared, row([i], 40), submitted=True) for i in range(6)]
    assert [read(stream) for stream in streams] == [alone([i], 40) for i in range(6)]
    shared.stop()
    assert not any(
        thread.name == "sc2onnx" for thread in threading.enumerate() if thread not in before
    )
    assert read(TokenStream(shared, row([3], 5))) == alone([3], 5)


def test_what_finished_is_reused_token_for_token() -> None:
    seats = FakeSeats()
    shared, prompt = engine(seats, keep=1000), list(range(30))
    given = read(TokenStream(shared, row(prompt, 10)))
    again = TokenStream(shared, row([*prompt, *given[:5]], 5))
    assert read(again) == given[5:]
    assert again.reused_tokens == 34
    assert seats.passes[-5][0] == 1


def test_the_end_of_the_program_ends_the_iteration_without_an_error() -> None:
    def trouble(runs: Sequence[Run]) -> None:
        raise CancelledError("the program is ending")

    stream = TokenStream(engine(FakeSeats(trouble=trouble)), row([1], 3))
    assert read(stream) == []
    assert stream.finish_reason == "cancelled"


def test_usage_says_what_a_request_took() -> None:
    shared: Engine = engine(FakeSeats(), keep=100)
    made: Row = row([1, 2, 3, 4], 6)
    stream = TokenStream(shared, made)
    read(stream)
    usage = stream.usage
    assert (usage.prompt, usage.reused, usage.generated) == (4, 0, 6)
    assert min(usage.waited, usage.prefill, usage.decode) >= 0
