"""Streams say how they ended, and can be closed from any thread and from asyncio."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import sc2onnx
from sc2onnx.errors import InferenceError, OutOfMemoryError, SequenceStateError
from sc2onnx.runtime.cache.ring import RingCache
from sc2onnx.runtime.choose.sampling import Sampler

PROMPT = "def fib(n):\n"
LONG = "import os\n" * 590


@pytest.fixture(scope="module")
def slow(bundle: Path) -> sc2onnx.Model:
    """A model whose prefill of LONG takes long enough to be closed in its middle, in one step."""
    return sc2onnx.load(bundle, prefill_chunk=1792, cache_capacity=2048, prefix_memory=0, threads=1)


def test_a_stream_says_what_it_gave_and_how_it_ended(forgetful: sc2onnx.Model) -> None:
    whole = forgetful.generate(PROMPT, max_new_tokens=12)
    with forgetful.stream(PROMPT, max_new_tokens=12) as stream:
        assert (stream.finish_reason, stream.text, stream.generated_tokens) == (None, "", 0)
        first = next(stream)
        assert (stream.finish_reason, stream.text) == (None, first.text)
        assert stream.prompt_tokens == whole.prompt_tokens
        pieces = [first, *stream]
        assert stream.finish_reason == pieces[-1].finish_reason == "length"
    assert stream.text == whole.text
    assert stream.generated_tokens == 12
    assert stream.finish_reason == "length"  # closing it afterwards changes nothing
    assert stream.used is None
    assert forgetful.stream(PROMPT, max_new_tokens=12, stop="\n").finish_reason is None


def test_a_stop_is_a_stop(forgetful: sc2onnx.Model) -> None:
    stop = forgetful.generate(PROMPT, max_new_tokens=20).text[-4:]
    stream = forgetful.stream(PROMPT, max_new_tokens=40, stop=stop)
    assert "".join(piece.text for piece in stream) == stream.text
    assert stream.finish_reason == "stop"
    assert stop not in stream.text


def test_a_stream_closed_midway_ends_and_says_so(forgetful: sc2onnx.Model) -> None:
    stream = forgetful.stream(PROMPT, max_new_tokens=500, stop_tokens=())
    pieces = [next(stream), next(stream)]
    stream.close()
    assert list(stream) == []
    assert stream.finish_reason == "cancelled"
    assert stream.text == "".join(piece.text for piece in pieces)
    unstarted = forgetful.stream(PROMPT)
    unstarted.close()
    assert (list(unstarted), unstarted.finish_reason, unstarted.text) == ([], "cancelled", "")


@pytest.mark.parametrize("after", [0.0, 0.003, 0.01, 0.03])
def test_closing_from_another_thread_is_never_taken_for_the_end(
    forgetful: sc2onnx.Model, after: float
) -> None:
    for kind in ("stream", "tokens"):
        made: Any = (
            forgetful.stream(PROMPT, max_new_tokens=2000, stop_tokens=())
            if kind == "stream"
            else forgetful.generate_tokens([1, 2, 3], max_new_tokens=2000, stop_tokens=())
        )
        timer = threading.Timer(after, made.close)
        timer.start()
        parts = list(made)
        timer.join()
        assert made.finish_reason == "cancelled"
        assert len(parts) < 2000
        assert forgetful.memory_footprint().cache == 0


def test_tokens_have_the_same_end(forgetful: sc2onnx.Model) -> None:
    with forgetful.generate_tokens([1, 2, 3], max_new_tokens=8, stop_tokens=()) as tokens:
        reasons = [tokens.finish_reason]
        found = list(tokens)
    assert [*reasons, tokens.finish_reason] == [None, "length"]
    assert tokens.generated_tokens == 8
    assert tokens.prompt_tokens == 3
    stopped = forgetful.generate_tokens([1, 2, 3], max_new_tokens=8, stop_tokens=[found[4].id])
    first = [token.id for token in found].index(found[4].id)
    assert list(stopped) == found[:first]
    assert stopped.finish_reason == "stop"


def test_a_stream_is_for_one_thread_at_a_time(slow: sc2onnx.Model) -> None:
    stream = slow.stream(LONG, max_new_tokens=1)
    worker = threading.Thread(target=lambda: list(stream))
    worker.start()
    while slow.engine.turn.free:
        time.sleep(0.001)
    with pytest.raises(SequenceStateError, match="the stream is in use"):
        next(stream)
    stream.close()
    worker.join()
    assert stream.finish_reason == "cancelled"


def test_after_an_error_there_is_no_reason(
    forgetful: sc2onnx.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Sampler, logits: Any) -> int:
        raise InferenceError("on purpose")

    stream = forgetful.stream(PROMPT, max_new_tokens=8)
    monkeypatch.setattr(Sampler, "draw", failing)
    with stream, pytest.raises(InferenceError, match="on purpose"):
        next(stream)
    assert stream.finish_reason is None
    assert list(stream) == []


@pytest.mark.parametrize("where", ["__init__", "begin"])
def test_no_memory_is_an_error_of_ours_that_says_how_much(
    forgetful: sc2onnx.Model, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(self: RingCache, *arguments: Any, **options: Any) -> None:
        raise MemoryError("Unable to allocate 3.00 GiB for an array")

    monkeypatch.setattr(RingCache, where, full)
    calls: list[Callable[[], Any]] = [
        lambda: forgetful.generate("a"),
        lambda: forgetful.generate(["a", "b"]),
        lambda: forgetful.generate("a", n=2),
        lambda: list(forgetful.stream("a")),
        lambda: forgetful.infill("a", "b"),
        lambda: list(forgetful.generate_tokens([1])),
        lambda: forgetful.sequence().append([1]),
    ]
    for call in calls:
        with pytest.raises(
            OutOfMemoryError,
            match=r"not enough memory \(Unable to allocate 3.00 GiB.*cache_capacity",
        ):
            call()
    assert issubclass(OutOfMemoryError, MemoryError)


def test_async_for_gives_the_pieces(forgetful: sc2onnx.Model) -> None:
    async def read() -> list[sc2onnx.Piece]:
        async with forgetful.stream(PROMPT, max_new_tokens=12) as stream:
            pieces = [piece async for piece in stream]
        assert stream.finish_reason == "length"
        tokens = forgetful.generate_tokens([1, 2], max_new_tokens=3, stop_tokens=())
        assert len([token async for token in tokens]) == 3
        return pieces

    assert asyncio.run(read()) == list(forgetful.stream(PROMPT, max_new_tokens=12))


def test_the_event_loop_goes_on_while_a_stream_computes(slow: sc2onnx.Model) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    async def read() -> None:
        ticking = asyncio.create_task(tick())
        async for _ in slow.stream(LONG, max_new_tokens=1):
            pass
        ticking.cancel()

    asyncio.run(read())
    assert ticks > 5


def test_a_cancelled_task_stops_the_work(slow: sc2onnx.Model) -> None:
    began = time.perf_counter()
    list(slow.stream(LONG, max_new_tokens=1))
    whole = time.perf_counter() - began
    stream = slow.stream(LONG, max_new_tokens=500, stop_tokens=())

    async def read() -> None:
        async with stream:
            async for _ in stream:
                pass

    async def impatient() -> float:
        task = asyncio.create_task(read())
        await asyncio.sleep(whole / 10)
        began = time.perf_counter()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.perf_counter() - began

    began = time.perf_counter()
    assert asyncio.run(impatient()) < whole * 0.9
    # and run() has waited for its threads: to the end it takes far longer
    assert time.perf_counter() - began < whole
    assert stream.finish_reason == "cancelled"
    assert slow.memory_footprint().cache == 0


def test_a_cancelled_task_frees_the_cache_without_a_block(slow: sc2onnx.Model) -> None:
    stream = slow.stream(LONG, max_new_tokens=500, stop_tokens=())

    async def read() -> None:
        async for _ in stream:
            pass

    async def impatient() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(read(), 0.02)

    asyncio.run(impatient())
    assert stream.finish_reason == "cancelled"
    assert slow.memory_footprint().cache == 0


def test_a_program_whose_task_was_cancelled_exits(bundle: Path) -> None:
    code = """
import asyncio, sys
import sc2onnx

model = sc2onnx.load(sys.argv[1], threads=1)

async def complete():
    async with model.stream("def f(", max_new_tokens=2000, stop_tokens=()) as stream:
        async for piece in stream:
            pass

async def main():
    try:
        await asyncio.wait_for(complete(), 0.1)
    except asyncio.TimeoutError:
        print("cancelled")

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cancelled")


def test_a_stream_is_left_where_no_thread_is_free(forgetful: sc2onnx.Model) -> None:
    """Other work of an application may hold all of asyncio's threads, or the
    pool may be gone already.
    """
    free = threading.Event()

    async def leave() -> float:
        loop, pool = asyncio.get_running_loop(), ThreadPoolExecutor(1)
        loop.set_default_executor(pool)
        async with forgetful.stream(PROMPT, max_new_tokens=64, stop_tokens=()) as stream:
            await anext(stream)
            pool.submit(free.wait, 10)
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0.01)
            waiting.cancel()
            began = time.perf_counter()
        assert stream.finish_reason == "cancelled"
        free.set()
        pool.shutdown()
        async with forgetful.stream(PROMPT) as unread:
            pass
        assert unread.finish_reason == "cancelled"
        return time.perf_counter() - began

    assert asyncio.run(leave()) < 5
    assert forgetful.memory_footprint().cache == 0
