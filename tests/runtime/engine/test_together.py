"""Requests of a real model, computed together: each is what it is alone, row by row."""

from __future__ import annotations

import argparse
import asyncio
import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sc2onnx
from sc2onnx.errors import RequestError
from sc2onnx.runtime.choose.sampling import Sampler
from sc2onnx.runtime.engine.costs import StepCosts
from sc2onnx.runtime.engine.lookup import Memory
from sc2onnx.runtime.engine.streams import Stream
from sc2onnx.runtime.options import GenerationOptions
from sc2onnx.runtime.request import Drafting

CODE = Path(argparse.__file__).read_text(encoding="utf-8")
PROMPTS = [
    CODE[first : first + size]
    for first, size in ((0, 30), (900, 700), (5000, 1500), (9000, 2600), (100, 400), (7000, 90))
]
REPEATING = "def area(width, height):\n    return width * height\n\n\n" * 12 + "def area("


def fp32(bundle: Path, **options: Any) -> sc2onnx.Model:
    return sc2onnx.load(bundle, **options)


def kernels(int4: Path, **options: Any) -> sc2onnx.Model:
    return sc2onnx.load(int4, kernels="on", packed="off", **options)


Load = Callable[..., sc2onnx.Model]


@pytest.fixture(params=["fp32", pytest.param("kernels", marks=pytest.mark.kernels)])
def load(request: pytest.FixtureRequest) -> Load:
    if request.param == "fp32":
        path = request.getfixturevalue("bundle")
        return lambda **options: fp32(path, **options)
    path = request.getfixturevalue("int4_bundle")
    return lambda **options: kernels(path, **options)


class Free(StepCosts):
    """Further tokens cost nothing, so that there are drafts wherever there is a match."""

    known = True

    def seconds(self, size: int) -> float:
        return 1.0


def test_a_batch_drafts_reuses_and_heals_row_by_row(load: Load) -> None:
    plain = load(speculate=False, prefix_memory=0)
    model = load()
    model.engine.steps.costs.steps = free = Free()
    model.requests.drafting = Drafting(Memory(), free)
    prompts = [REPEATING, REPEATING[4:], "x = [1, 2, 3]\nfor i in ra", CODE[:300]]
    options: dict[str, Any] = {"max_new_tokens": 40, "heal": True}
    expected = [plain.generate(prompt, **options) for prompt in prompts]
    for _ in range(2):  # beginnings are kept, then
        found = model.generate(prompts, **options)
        assert found == expected
    assert found[0].usage.accepted > 10
    assert found[1].usage.accepted > 10
    assert all(done.usage.reused >= done.prompt_tokens - 6 for done in found[:2])


@pytest.mark.parametrize("own_thread", [False, True])
def test_threads_stream_together_what_each_gets_alone(load: Load, own_thread: bool) -> None:
    plain, model = load(prefix_memory=0), load(max_batch=4, prefix_memory=0)
    options: list[dict[str, Any]] = [
        {"max_new_tokens": 5 + 7 * i, "temperature": 0.7 * (i % 2), "seed": i, "stop": "\n\n"}
        for i in range(len(PROMPTS))
    ]
    expected = [
        plain.generate(prompt, **option) for prompt, option in zip(PROMPTS, options, strict=True)
    ]
    if own_thread:
        model.start()
    gate = threading.Barrier(len(PROMPTS))

    def ask(number: int) -> sc2onnx.Completion | str:
        gate.wait(20)
        with model.stream(PROMPTS[number], **options[number]) as stream:
            return "".join(piece.text for piece in stream)

    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        assert list(pool.map(ask, range(len(PROMPTS)))) == [done.text for done in expected]
    model.stop()
    gc.collect()
    assert model.memory_footprint().cache == 0
    assert model.engine.idle


def test_a_row_that_is_closed_or_fails_leaves_the_others_alone(load: Load) -> None:
    plain, model = load(prefix_memory=0), load(prefix_memory=0)
    streams = [model.stream(prompt, max_new_tokens=20) for prompt in PROMPTS[:4]]
    given = [next(stream).text for stream in streams]
    streams[1].close()

    class Broken:
        def draw(self, logits: object) -> int:
            raise sc2onnx.Sc2onnxError("on purpose")

    row = model.requests.continuing(PROMPTS[4], GenerationOptions(max_new_tokens=20), "pieces")
    row.sampler = Broken()
    failing = Stream(model.engine, row)
    with pytest.raises(sc2onnx.Sc2onnxError, match="on purpose"):
        next(failing)
    for number in (0, 2, 3):
        rest = "".join(piece.text for piece in streams[number])
        assert given[number] + rest == plain.generate(PROMPTS[number], max_new_tokens=20).text
    assert list(streams[1]) == []
    assert model.memory_footprint().cache == 0


def test_a_late_request_ends_with_what_there_is(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(prefix_memory=0)
    draw = Sampler.draw

    def slowly(self: Sampler, logits: Any) -> int:
        time.sleep(0.002)
        return draw(self, logits)

    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "draw", slowly)
        done = model.generate(CODE[:200], max_new_tokens=1500, stop_tokens=(), timeout=1.0)
    assert done.finish_reason == "timeout"
    assert 0 < len(done.tokens) < 1500
    whole = model.generate(CODE[:200], max_new_tokens=len(done.tokens), stop_tokens=())
    assert done.tokens == whole.tokens
    with pytest.raises(
        sc2onnx.Sc2onnxError, match="timeout is 0, expected seconds, more than 0, or None"
    ):
        model.generate("a", timeout=0)


def test_a_submitted_request_is_waited_for_and_replaced(load: Load) -> None:
    plain, model = load(prefix_memory=0), load(prefix_memory=0)
    older = model.submit(CODE[:200], max_new_tokens=500, stop_tokens=(), replaces=("me", "file"))
    other = model.submit(CODE[:300], max_new_tokens=12, replaces=("me", "other"))
    newer = model.submit(CODE[:220], max_new_tokens=12, replaces=("me", "file"))
    assert newer.result() == newer.result() == plain.generate(CODE[:220], max_new_tokens=12)
    assert older.result().finish_reason == "cancelled"
    assert other.result() == plain.generate(CODE[:300], max_new_tokens=12)

    async def awaited() -> sc2onnx.Completion:
        return await model.submit(CODE[:200], max_new_tokens=5)

    model.start()
    assert asyncio.run(awaited()) == plain.generate(CODE[:200], max_new_tokens=5)
    model.stop()


def test_a_newer_keystroke_replaces_the_older_one_of_the_same_file(load: Load) -> None:
    plain, model = load(prefix_memory=0), load(prefix_memory=0)
    before, after = CODE[:900], CODE[900:1500]
    options: dict[str, Any] = {"path": "a.py", "order": "spm", "prompt_tokens": 200}
    key = ("me", "a.py")
    older = model.submit_infill(before, after, replaces=key, max_new_tokens=500, **options)
    other = model.submit(CODE[:300], max_new_tokens=12, priority=1, replaces=("me", "b.py"))
    newer = model.submit_infill(before + "x", after, replaces=key, max_new_tokens=12, **options)
    expected = plain.infill(before + "x", after, max_new_tokens=12, **options)
    assert newer.result() == expected
    assert newer.result().used == expected.used
    assert expected.used is not None
    assert expected.used.cut
    assert older.result().finish_reason == "cancelled"
    assert other.result() == plain.generate(CODE[:300], max_new_tokens=12)
    last = model.submit_infill(before, after, replaces=key, max_new_tokens=500, timeout=60)
    continued = model.submit(before, max_new_tokens=4, replaces=key)
    assert continued.result() == plain.generate(before, max_new_tokens=4)
    assert last.result().finish_reason == "cancelled"


@pytest.mark.parametrize("chunk", [256, 7])
def test_log_probabilities_of_prompts_beside_others(load: Load, chunk: int) -> None:
    """Whatever an earlier request left, however it is cut, and for each sample."""
    model = load(prefill_chunk=chunk, max_batch=4)
    code = CODE[:400]
    ids = model.codec.encode(code)
    with model.sequence() as sequence:
        logits = sequence.append(ids)
    assert logits is not None
    rows = [row - row.max() for row in logits.astype(np.float64)]
    expected = [
        row[token] - np.log(np.exp(row).sum()) for row, token in zip(rows, ids[1:], strict=False)
    ]
    options: dict[str, Any] = {
        "max_new_tokens": 3,
        "logprobs": True,
        "prompt_logprobs": True,
        "top_logprobs": 1,
    }
    model.generate(code, max_new_tokens=2)  # which leaves the prompt computed
    beside = model.submit(CODE[200:600], max_new_tokens=12)
    for done in model.generate(code, n=2, temperature=0.5, seed=1, **options):
        assert done.prompt is not None
        assert [token.id for token in done.prompt] == ids
        assert done.prompt[0].logprob is None
        assert [token.logprob for token in done.prompt[1:]] == pytest.approx(expected, abs=1e-4)
        assert all(len(token.likeliest) == 1 for token in done.prompt[1:])
        assert len(done.tokens) == 3
    assert beside.result() == model.generate(CODE[200:600], max_new_tokens=12)
    assert model.generate(code, max_new_tokens=3, logprobs=True).prompt is None
    with pytest.raises(RequestError, match="prompt_logprobs is True"):
        model.generate(code, prompt_logprobs=True)


def test_sequences_and_requests_share_the_model(load: Load) -> None:
    plain, model = load(prefix_memory=0), load(prefix_memory=0)
    ids = model.codec.encode(CODE[:1500])
    with plain.sequence() as sequence:
        expected = np.asarray(sequence.append(ids[:300]))

    def append(_: int) -> bool:
        with model.sequence() as sequence:
            parts = [sequence.append(ids[first : first + 30]) for first in range(0, 300, 30)]
        found = np.concatenate([np.asarray(part) for part in parts])
        return bool(np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max())

    with ThreadPoolExecutor(4) as pool:
        appended = [pool.submit(append, i) for i in range(3)]
        generated = [
            pool.submit(model.generate, prompt, max_new_tokens=12) for prompt in PROMPTS[:3]
        ]
        assert all(each.result() for each in appended)
        assert [each.result() for each in generated] == [
            plain.generate(prompt, max_new_tokens=12) for prompt in PROMPTS[:3]
        ]


@pytest.mark.parametrize("own_thread", [False, True])
def test_streams_of_asyncio_are_computed_together(load: Load, own_thread: bool) -> None:
    """Also more than there are threads to wait in."""
    plain, model = load(prefix_memory=0), load(prefix_memory=0)
    if own_thread:
        model.start()

    async def read(prompt: str) -> str:
        async with model.stream(prompt, max_new_tokens=16) as stream:
            return "".join([piece.text async for piece in stream])

    async def all_of() -> list[str]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1 if own_thread else 8))
        return await asyncio.gather(*map(read, PROMPTS))

    assert asyncio.run(all_of()) == [
        plain.generate(prompt, max_new_tokens=16).text for prompt in PROMPTS
    ]
    model.stop()


def test_a_task_of_asyncio_that_is_cancelled_frees_its_place(load: Load) -> None:
    model = load(prefix_memory=0)
    model.start()

    async def cancelled() -> None:
        stream = model.stream(CODE[:200], max_new_tokens=1000, stop_tokens=())

        async def read() -> None:
            async for _ in stream:
                pass

        reading = asyncio.create_task(read())
        while not stream.generated_tokens:
            await asyncio.sleep(0.001)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await stream.aclose()
        assert stream.finish_reason == "cancelled"

    asyncio.run(cancelled())
    model.stop()
    assert model.memory_footprint().cache == 0
