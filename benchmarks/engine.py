"""Requests beside each other: what one engine makes of threads, arrivals, prompts and sampling.

    python benchmarks/engine.py BUNDLE
    python benchmarks/engine.py BUNDLE --only threads prompt --tokens 64

Prompts are the tasks of benchmarks/tasks. Every figure compares within one process, in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import sc2onnx
from sc2onnx.errors import Sc2onnxError
from sc2onnx.runtime.choose.parameters import SamplingParameters
from sc2onnx.runtime.engine.row import Row
from sc2onnx.runtime.engine.seats import Run
from sc2onnx.runtime.engine.streams import TokenStream
from sc2onnx.runtime.options import GenerationRules

TASKS = Path(__file__).parent / "tasks" / "tasks.jsonl"
STREAMS = 8


@dataclass(frozen=True)
class Ask:
    """What is asked for: prompts of so many tokens, and tokens of each."""

    model: sc2onnx.Model
    prompts: list[list[int]]
    count: int

    def row(self, number: int, *, count: int | None = None, seed: int | None = None) -> Row:
        """A row that never stops by itself."""
        sampling = (
            SamplingParameters()
            if seed is None
            else SamplingParameters(temperature=0.8, top_p=0.95, seed=seed)
        )
        rules = GenerationRules(count or self.count, sampling)
        row = self.model.requests.row(self.prompts[number % len(self.prompts)], rules, "tokens")
        row.drafter = None  # what drafts gain depends on the text
        return row

    def stream(self, number: int) -> TokenStream:
        """A request that is computed while it is read."""
        return TokenStream(self.model.engine, self.row(number))


def prompts(model: sc2onnx.Model, length: int) -> list[list[int]]:
    """The beginnings of the tasks' texts, each of ``length`` tokens."""
    texts = [json.loads(line) for line in TASKS.read_text(encoding="utf-8").splitlines()]
    ids = [
        model.codec.encode(text["prompt"] + text["continuation"], special=False) for text in texts
    ]
    return [each[:length] for each in ids if len(each) >= length][:STREAMS]


def together(ask: Ask, gaps: float) -> tuple[float, list[list[int]], list[list[float]]]:
    """Seconds that 8 streams take, one more every ``gaps`` seconds, their
    tokens, and when these came.
    """
    began = time.perf_counter()

    def read(number: int) -> tuple[list[int], list[float]]:
        time.sleep(max(0.0, began + gaps * number - time.perf_counter()))
        found = [(token.id, time.perf_counter()) for token in ask.stream(number)]
        return [token for token, _ in found], [at for _, at in found]

    with ThreadPoolExecutor(STREAMS) as pool:
        tokens, times = zip(*pool.map(read, range(STREAMS)), strict=True)
    return time.perf_counter() - began, list(tokens), list(times)


def threads(ask: Ask, repeat: int) -> None:
    """8 threads at once, and the same requests one after the other."""
    ratios, same = [], True
    for _ in range(repeat):
        began = time.perf_counter()
        expected = [[token.id for token in ask.stream(number)] for number in range(STREAMS)]
        alone = time.perf_counter() - began
        seconds, found, _ = together(ask, 0.0)
        ratios.append(alone / seconds)
        same &= found == expected
    print(
        f"8 threads at once: {statistics.median(ratios):.2f}x the tokens per second of one after "
        f"the other, tokens {'equal' if same else 'DIFFER'}"
    )


def arrivals(ask: Ask, repeat: int, over: float) -> None:
    """8 streams that arrive over some seconds, and 8 that start together: tokens per second
    while all of them decode.
    """
    # so many that the first still runs when the last one comes
    asked = replace(ask, count=ask.count * 6)
    ratios, rates = [], []
    for _ in range(repeat):
        found = [rate(together(asked, gaps)[2]) for gaps in (0.0, over / STREAMS)]
        rates.append(found[1])
        ratios.append(found[1] / found[0])
    print(
        f"8 streams that arrived over {over:.0f} s: {statistics.median(rates):.0f} tokens per "
        f"second once all decode, {statistics.median(ratios):.2f}x that of 8 that start together"
    )


def rate(times: Sequence[Sequence[float]]) -> float:
    """Tokens per second from when the last stream has its first token
    to when the first one ends.
    """
    first, end = max(each[0] for each in times), min(each[-1] for each in times)
    return sum(first <= at <= end for each in times for at in each) / (end - first)


def beside(ask: Ask, repeat: int, size: int, running: int) -> None:
    """A long prompt that enters while others decode."""
    long = np.array(([token for prompt in ask.prompts for token in prompt] * 99)[:size])
    rules = GenerationRules(1, SamplingParameters())
    engine = ask.model.engine
    worst, slower, medians = [], [], []
    for _ in range(repeat):
        began = time.perf_counter()
        list(TokenStream(engine, ask.model.requests.row(long, rules, "tokens")))
        alone = time.perf_counter() - began
        times: list[list[float]] = [[] for _ in range(running)]
        stop = threading.Event()

        def read(
            number: int, times: list[list[float]] = times, stop: threading.Event = stop
        ) -> None:
            stream = TokenStream(engine, ask.row(number, count=1200))
            for _ in stream:
                times[number].append(time.perf_counter())
                if stop.is_set():
                    stream.close()

        readers = [threading.Thread(target=read, args=(number,)) for number in range(running)]
        for reader in readers:
            reader.start()
        while any(len(each) < 25 for each in times):
            time.sleep(0.01)
        began = time.perf_counter()
        list(TokenStream(engine, ask.model.requests.row(long, rules, "tokens")))
        ended = time.perf_counter()
        while any(each[-1] < ended + 1.0 for each in times):
            time.sleep(0.01)
        stop.set()
        for reader in readers:
            reader.join()
        for each in times:
            gaps = np.diff(each)
            usual = statistics.median(
                gap for gap, at in zip(gaps, each[1:], strict=True) if not began <= at <= ended
            )
            entering = [gap for gap, at in zip(gaps, each[1:], strict=True) if began <= at <= ended]
            worst.append(statistics.median(entering) / usual)
            medians.append(max(entering) / usual)
        slower.append((ended - began) / alone)
    print(
        f"a prompt of {size} tokens beside {running} streams: {statistics.median(slower):.2f}x the "
        f"time alone; the others' time between tokens is {statistics.median(worst):.2f}x theirs "
        f"without it, at most {max(medians):.2f}x"
    )


def own(ask: Ask, rows: int, seeded: bool) -> None:
    """The engine's own time for a step: everything but the forward pass."""
    engine = ask.model.engine
    inside = list[float]()
    forward = engine.seats.forward

    def timed(runs: Sequence[Run], *, ids: bool = False) -> object:
        began = time.perf_counter()
        try:
            return forward(runs, ids=ids)
        finally:
            inside.append(time.perf_counter() - began)

    engine.seats.forward = timed  # type: ignore[method-assign,assignment]
    try:
        asked = [ask.row(i, seed=i if seeded else None) for i in range(rows)]
        streams = [TokenStream(engine, row, submitted=True) for row in asked]
        for stream in streams:
            while not stream.generated_tokens:
                next(streams[0])
        inside.clear()
        began = time.perf_counter()
        with engine.exclusive(inside=True):
            steps = 0
            while steps < 12 and engine.steps.step():
                steps += 1
                for row in asked:
                    row.parts.clear()  # read, so that no row stands still
        whole = time.perf_counter() - began
        for stream in streams:
            stream.close()
    finally:
        engine.seats.forward = forward  # type: ignore[method-assign]
    kind, passes = "sampled" if seeded else "greedy", sum(inside)
    print(
        f"{rows} {kind} rows: {1e3 * (whole - passes) / steps:.2f} ms a step besides the pass of "
        f"{1e3 * passes / steps:.1f} ms"
    )


def owns(ask: Ask) -> None:
    """:func:`own` of few and of many rows."""
    for rows in (1, STREAMS):
        for seeded in (False, True):
            own(ask, rows, seeded)


def besides(ask: Ask, repeat: int, size: int) -> None:
    """:func:`beside` of few and of many streams."""
    for running in (1, 4):
        beside(ask, repeat, size, running)


def coming(ask: Ask) -> None:
    """What a row that leaves or enters costs the others: the time between their steps that
    is neither pass nor usual.
    """
    engine = ask.model.engine
    took = list[tuple[float, float]]()
    step = engine.steps.step
    asked = [ask.row(i, count=400) for i in range(4)]
    streams = [TokenStream(engine, row, submitted=True) for row in asked]
    for stream in streams:
        while not stream.generated_tokens:
            next(streams[0])

    def measure() -> float:
        inside = 0.0
        forward = engine.seats.forward

        def timed(runs: Sequence[Run], *, ids: bool = False) -> object:
            nonlocal inside
            began = time.perf_counter()
            try:
                return forward(runs, ids=ids)
            finally:
                inside += time.perf_counter() - began

        engine.seats.forward = timed  # type: ignore[method-assign,assignment]
        began = time.perf_counter()
        with engine.exclusive(inside=True):
            step()
        whole = time.perf_counter() - began
        engine.seats.forward = forward  # type: ignore[method-assign]
        for row in asked:
            row.parts.clear()  # read, so that no row stands still
        return whole - inside

    for number in range(6):
        usual = statistics.median(measure() for _ in range(5))
        extra = TokenStream(engine, ask.row(number), submitted=True)
        entering = measure()
        extra.close()
        took.append((entering - usual, measure() - usual))
    enters, leaves = (1e3 * max(each) for each in zip(*took, strict=True))
    print(
        f"a row that enters costs the others {enters:.2f} ms beside its tokens, one that leaves "
        f"{leaves:.2f} ms (the most of {len(took)})"
    )
    for stream in streams:
        stream.close()


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=("threads", "arrivals", "prompt", "own", "coming"),
        help="these alone",
    )
    parser.add_argument(
        "--tokens", type=int, default=128, metavar="N", help="of each stream (default: 128)"
    )
    parser.add_argument(
        "--length", type=int, default=64, metavar="N", help="tokens of their prompts (default: 64)"
    )
    parser.add_argument(
        "--prompt",
        type=int,
        default=2000,
        metavar="N",
        help="tokens of the prompt that enters (default: 2000)",
    )
    parser.add_argument(
        "--over",
        type=float,
        default=20.0,
        metavar="S",
        help="seconds over which streams arrive (default: 20)",
    )
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="turns (default: 3)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    try:
        model = sc2onnx.load(
            options.bundle, threads=options.threads, device=options.device, prefix_memory=0
        )
        ask = Ask(model, prompts(model, options.length), options.tokens)
    except (Sc2onnxError, OSError) as error:
        sys.exit(f"engine.py: {error}")
    list(ask.stream(0))
    parts: dict[str, Callable[[], None]] = {
        "own": lambda: owns(ask),
        "coming": lambda: coming(ask),
        "threads": lambda: threads(ask, options.repeat),
        "arrivals": lambda: arrivals(ask, options.repeat, options.over),
        "prompt": lambda: besides(ask, options.repeat, options.prompt),
    }
    for name, measure in parts.items():
        if not options.only or name in options.only:
            measure()


if __name__ == "__main__":
    main()
