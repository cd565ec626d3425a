"""Token level: appending in any way gives torch's logits; mistakes are refused before any work."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

import sc2onnx
from sc2onnx.errors import (
    ContextLengthError,
    EmptyPromptError,
    RequestError,
    RewindError,
    SequenceStateError,
    TokenIdError,
)
from sc2onnx.runtime.cache.ring import RingCache
from sc2onnx.runtime.cache.storage import InMemory
from sc2onnx.runtime.engine.sequence import TokenSequence

TOLERANCE = 1e-5  # of the largest logit, as the verifier's


@pytest.fixture
def sequence(model: sc2onnx.Model) -> Iterator[TokenSequence]:
    with model.sequence() as opened:
        yield opened


def assert_close(ours: npt.NDArray[np.float32] | None, expected: npt.NDArray[np.float32]) -> None:
    assert ours is not None
    assert ours.shape == expected.shape
    assert ours.dtype == np.float32
    assert np.abs(ours - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("sizes", [[600], [1] * 600, [255, 1, 1, 300, 43], [7] * 85 + [5]])
def test_logits_are_those_of_torch(
    sequence: TokenSequence, reference: Mapping[str, npt.NDArray[Any]], sizes: list[int]
) -> None:
    tokens, logits = reference["tokens"], reference["logits"]
    done = 0
    for size in sizes:
        assert_close(sequence.append(tokens[done : done + size]), logits[done : done + size])
        done += size
    assert sequence.length == len(sequence) == 600


def test_past_the_window_rewinds_are_exact_or_refused(
    sequence: TokenSequence, reference: Mapping[str, npt.NDArray[Any]]
) -> None:
    tokens, logits = reference["tokens"], reference["logits"]
    sequence.append(tokens, logits=None)
    allowed = sequence.rewindable
    assert 0 < allowed < 600
    with pytest.raises(RewindError, match=f"at most {allowed} of 600"):
        sequence.rewind(allowed + 1)
    sequence.rewind(allowed)
    assert_close(sequence.append(tokens[600 - allowed :]), logits[600 - allowed :])
    sequence.rewind(600)
    assert_close(sequence.append(tokens[:50]), logits[:50])


def test_only_the_logits_asked_for(
    sequence: TokenSequence, reference: Mapping[str, npt.NDArray[Any]]
) -> None:
    tokens, logits = reference["tokens"], reference["logits"]
    assert sequence.append(tokens[:300], logits=None) is None
    assert_close(sequence.append(tokens[300:580], logits="last"), logits[579:580])
    with pytest.raises(RequestError, match="logits is 'first', expected 'all', 'last' or None"):
        sequence.append([1], logits="first")  # type: ignore[arg-type]


@pytest.mark.parametrize(("capacity", "chunk"), [(256, 256), (257, 16), (300, 1000), (2048, 512)])
def test_any_capacity_and_chunk_give_the_same_logits(
    bundle: Path, reference: Mapping[str, npt.NDArray[Any]], capacity: int, chunk: int
) -> None:
    model = sc2onnx.load(bundle, cache_capacity=capacity, prefill_chunk=chunk, threads=1)
    with model.sequence() as sequence:
        assert_close(sequence.append(reference["tokens"][:560]), reference["logits"][:560])
        assert model.memory_footprint().cache <= 6 * 2 * 2 * 64 * 4 * capacity


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([4096], "token id 4096 is outside the vocabulary, expected 0 to 4095"),
        ([3, -1], "token id -1 is outside the vocabulary"),
        ([1.5], "expected whole numbers"),
        (["a"], "expected whole numbers"),
        ([2**70], "too large"),
    ],
)
def test_impossible_tokens_are_refused(
    sequence: TokenSequence, tokens: list[Any], message: str
) -> None:
    with pytest.raises(TokenIdError, match=message):
        sequence.append(tokens)
    assert sequence.length == 0


def test_no_tokens_are_refused(sequence: TokenSequence) -> None:
    with pytest.raises(EmptyPromptError, match="expected at least one"):
        sequence.append([])


def test_numpy_integers_of_any_width_are_tokens(
    sequence: TokenSequence, reference: Mapping[str, npt.NDArray[Any]]
) -> None:
    assert_close(
        sequence.append(reference["tokens"][:3].astype(np.uint16)), reference["logits"][:3]
    )


def test_the_context_is_the_limit_and_is_checked_before_any_work(sequence: TokenSequence) -> None:
    sequence.append(np.full(2000, 5), logits=None)
    with pytest.raises(
        ContextLengthError, match="49 tokens after 2000 make 2049, the model's context holds 2048"
    ):
        sequence.append(np.full(49, 5))
    assert sequence.length == 2000
    sequence.append(np.full(48, 5), logits="last")
    with pytest.raises(ContextLengthError):
        sequence.append([5])


def test_a_closed_sequence_says_so_and_has_freed_its_cache(bundle: Path) -> None:
    model = sc2onnx.load(bundle)
    sequence = model.sequence()
    sequence.append([1, 2, 3])
    assert model.memory_footprint().cache > 0
    sequence.close()
    sequence.close()
    assert model.memory_footprint().cache == 0
    assert sequence.length == 0
    with pytest.raises(SequenceStateError, match="closed: make a new one"):
        sequence.append([1])


def test_a_forgotten_sequence_frees_its_cache(bundle: Path) -> None:
    model = sc2onnx.load(bundle)
    model.sequence().append([1, 2, 3])
    assert model.memory_footprint().cache == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"threads": 0},
        {"threads": "2"},
        {"threads": 1.5},
        {"prefill_chunk": 0},
        {"prefill_chunk": 2.5},
        {"cache_capacity": 255},
        {"cache_capacity": 0},
    ],
)
def test_impossible_sizes_are_refused(bundle: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(wrong)).replace("_", "[_ ]") + " is"):
        sc2onnx.load(bundle, **wrong)


@pytest.mark.parametrize("count", [0.5, -1, "1"])
def test_a_rewind_takes_a_whole_number(sequence: TokenSequence, count: Any) -> None:
    sequence.append([1, 2, 3])
    with pytest.raises(RewindError, match="give a whole number from 0 to 3"):
        sequence.rewind(count)
    assert sequence.length == 3


def test_running_out_of_memory_while_growing_leaves_the_sequence_as_it_was(
    sequence: TokenSequence,
    reference: Mapping[str, npt.NDArray[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens, logits = reference["tokens"], reference["logits"]
    sequence.append(tokens[:60])
    allocated = 0

    def failing(self: InMemory, number: int, array: npt.NDArray[Any]) -> Any:
        nonlocal allocated
        allocated += 1
        if allocated == 6:
            raise MemoryError
        return array

    monkeypatch.setattr(InMemory, "put", failing)
    with pytest.raises(MemoryError):
        sequence.append(tokens[60:100])
    assert sequence.length == 60
    assert_close(sequence.append(tokens[60:100]), logits[60:100])


def test_length_and_rewindable_can_be_read_while_another_thread_closes(
    model: sc2onnx.Model,
) -> None:
    with ThreadPoolExecutor(1) as pool:
        for _ in range(200):
            sequence = model.sequence()
            sequence.append([1, 2, 3], logits=None)
            closing = pool.submit(sequence.close)
            while not closing.done():
                assert sequence.length in (0, 3)
                assert sequence.rewindable in (0, 3)


def test_closing_in_a_signal_handler_of_the_working_thread_does_not_hang(
    forgetful: sc2onnx.Model,
) -> None:
    """The handler interrupts the very append that it closes: it must not wait for it."""
    for delay in (0.001, 0.002, 0.004, 0.008, 0.016):
        sequence = forgetful.sequence()
        before = signal.signal(signal.SIGALRM, lambda *_, open=sequence: open.close())
        try:
            signal.setitimer(signal.ITIMER_REAL, delay)
            # the signal may come in either call
            with pytest.raises(SequenceStateError):  # noqa: PT012
                for _ in range(100_000):
                    sequence.append([1], logits="last")
                    sequence.rewind(1)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert forgetful.memory_footprint().cache == 0


def test_using_a_sequence_in_a_signal_handler_of_its_own_append_is_refused(
    model: sc2onnx.Model,
) -> None:
    seen: list[Exception] = []
    with model.sequence() as sequence:

        def handler(*_: object) -> None:
            try:
                sequence.append([1])
            except SequenceStateError as error:
                seen.append(error)

        before = signal.signal(signal.SIGALRM, handler)
        try:
            deadline = time.monotonic() + 20
            while not seen and time.monotonic() < deadline:
                signal.setitimer(signal.ITIMER_REAL, 0.003)
                sequence.append([1] * 400, logits=None)
                sequence.rewind(sequence.length)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert "further up in this thread" in str(seen[0])


def test_the_footprint_can_be_asked_for_while_other_threads_work(model: sc2onnx.Model) -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            model.sequence().close()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            workers = [pool.submit(work) for _ in range(2)]
            kept = [model.sequence() for _ in range(15)]
            for _ in range(30):
                model.memory_footprint()
            stop.set()
            for worker in workers:
                worker.result()
        for sequence in kept:
            sequence.close()
    finally:
        stop.set()
        sys.setswitchinterval(interval)


def test_the_cache_is_updated_in_place(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """ONNX Runtime warns when it has to copy the cache in TensorScatter; listen for it."""
    import onnxruntime as ort

    from sc2onnx.bundle.manifest import Manifest
    from sc2onnx.runtime.cache.shape import CacheShape
    from sc2onnx.runtime.ort.binding import Step
    from sc2onnx.runtime.ort.devices import Device
    from sc2onnx.runtime.ort.graph import Graph

    options = ort.SessionOptions()
    options.log_severity_level = 2
    session = ort.InferenceSession(
        str(bundle / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    facts = Manifest.read(bundle).model
    cache = RingCache(
        CacheShape(
            facts.num_layers,
            facts.num_kv_heads,
            facts.head_dim,
            facts.window,
            facts.context_length,
            512,
        ),
        rows=1,
    )
    capfd.readouterr()
    loud = ort.RunOptions()
    loud.log_severity_level = 2
    graph = Graph(
        session, Device(), range(facts.num_layers), lambda number: loud, lambda array, device: None
    )
    step = Step([graph], facts.vocab_size, cache.buffers)
    step.run(np.array([[1, 2, 3]]), cache.lengths, 1)
    assert "in-place optimization not activated" not in capfd.readouterr().err
    assert all(buffer[:, :, :3].any() for buffer in cache.by_slot)
    assert not any(buffer[:, :, 3:].any() for buffer in cache.by_slot)
    names = [output.name for output in session.get_outputs()]
    caches = {
        f"past_key_values.{layer}.{kind}": cache.buffers[kind == "value"]
        for layer in range(6)
        for kind in ("key", "value")
    }
    session.run(names, {"input_ids": np.array([[1]]), "past_lengths": cache.lengths, **caches})
    # the listener hears it when it happens
    assert "in-place optimization not activated" in capfd.readouterr().err


def test_passes_of_all_threads_go_through_the_sessions_own() -> None:
    """As a GPU needs it; who is interrupted meanwhile leaves only when
    nothing is written any more.
    """
    from sc2onnx.runtime.ort.devices import Device
    from sc2onnx.runtime.ort.graph import Graph

    class Session:
        def __init__(self) -> None:
            self.threads, self.written = list[str](), 0

        def get_overridable_initializers(self) -> list[object]:
            return []

        get_inputs = get_outputs = get_overridable_initializers

        def run_with_iobinding(self, binding: object, options: object) -> None:
            self.threads.append(threading.current_thread().name)
            time.sleep(0.05)
            self.written += 1
            if binding == "bad":
                raise ValueError(binding)

    session: Any = Session()
    graph = Graph(
        session,
        Device("cuda"),
        range(1),
        lambda number: None,
        lambda array, device: None,
        thread=ThreadPoolExecutor(1, "own"),
    )
    callers = [threading.Thread(target=graph.run, args=("good", None)) for _ in range(3)]
    for caller in callers:
        caller.start()
    with pytest.raises(ValueError, match="bad"):
        graph.run(cast(Any, "bad"), cast(Any, None))
    for caller in callers:
        caller.join()
    assert set(session.threads) == {"own_0"}
    handler = signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(KeyboardInterrupt):
            graph.run(cast(Any, "good"), cast(Any, None))
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert session.written == 5
