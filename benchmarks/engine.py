"""Requests beside each other: what one engine makes of threads, arrivals, prompts and sampling.

    python benchmarks/engine.py BUNDLE
    python benchmarks/engine.py BUNDLE --only threads prompt --tokens 64

Prompts are the tasks of benchmarks/tasks. Every figure compares within one process, in turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

import sc2onnx
from engine_ask import STREAMS, Ask, prompts
from engine_steps import coming, owns
from sc2onnx.errors import Sc2onnxError
from sc2onnx.runtime.choose.parameters import SamplingParameters
from sc2onnx.runtime.engine.streams import TokenStream
from sc2onnx.runtime.options import GenerationRules


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


def besides(ask: Ask, repeat: int, size: int) -> None:
    """:func:`beside` of few and of many streams."""
    for running in (1, 4):
        beside(ask, repeat, size, running)


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
