"""The engine's own time: what a step costs besides its pass, and who enters or leaves."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from engine_ask import STREAMS, Ask
from sc2onnx.runtime.engine.seats import Run
from sc2onnx.runtime.engine.streams import TokenStream


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
