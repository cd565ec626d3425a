"""Engines taking turns: every round each does the same, so that what the machine does
meanwhile hits all alike.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

import numpy as np

from sc2onnx.bench.engine import Engine
from sc2onnx.bench.task import Task

PAUSE: Final = 0.05
"""Seconds before a turn: the threads of the engine before spin for a moment before they sleep, and
would take its processors.
"""


def interleaved(
    engines: Mapping[str, Engine], task: Task, repeat: int, vocab: int, failed: dict[str, Exception]
) -> dict[str, tuple[float, ...]]:
    """Seconds of one task, by engine a value for each of ``repeat`` rounds.

    Every other round goes backwards: nobody always follows the same one. What an engine raises goes
    into ``failed``, and it drops out.
    """
    random = np.random.default_rng(0)
    found: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(repeat):
        for name in list(engines)[:: -1 if number % 2 else 1]:
            if name in failed:
                continue
            try:
                if number == 0:
                    engines[name].place(task.depth)
                found[name].append(_turn(engines[name], task, vocab, random))
            except Exception as error:  # each engine has its own
                failed[name] = error
    return {name: tuple(values) for name, values in found.items() if name not in failed}


def _turn(engine: Engine, task: Task, vocab: int, random: np.random.Generator) -> float:
    """Mean seconds of the timed ones."""
    time.sleep(PAUSE)
    seconds = []
    for _ in range(task.warm + task.times):
        if task.depth == 0:
            engine.place(0)  # a prompt meets a fresh cache, and pays for it
        tokens = random.integers(0, vocab, task.tokens)
        began = time.perf_counter()
        engine.append(tokens)
        seconds.append(time.perf_counter() - began)
        if task.depth:
            engine.rewind(task.tokens)
    return float(np.mean(seconds[task.warm :]))
