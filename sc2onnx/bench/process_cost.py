"""What an engine takes when nothing else is there: load time and
memory, in a process of its own.
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from sc2onnx.bench.engine import Engine, Opener
from sc2onnx.runtime.memory import process_status


@dataclass(frozen=True, slots=True)
class ProcessCost:
    """Seconds and bytes. ``load``: the second time in the process, so with its files read before
    and its packages imported.

    Memory after tokens were decoded at the depth asked for, Python included, where the operating
    system tells (Linux), else None: ``peak``, the most that was resident, mapped weights included;
    ``private``, what no other process shares, at the end.
    """

    load: float
    peak: int | None
    private: int | None


def process_cost(opener: Opener, depth: int) -> ProcessCost:
    """Measure in a fresh process. Raises whatever opening raises, and
    ``BrokenProcessPool`` if the system killed it.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, opener, depth).result()


def _measure(opener: Opener, depth: int) -> ProcessCost:
    with opener() as engine:
        _decode(engine, depth)
        status = process_status()
    del engine
    gc.collect()
    began = time.perf_counter()
    with opener():
        return ProcessCost(time.perf_counter() - began, status.get("VmHWM"), status.get("RssAnon"))


def _decode(engine: Engine, depth: int) -> None:
    engine.place(depth)
    for _ in range(2):
        engine.append(np.zeros(1, dtype=np.int64))
        engine.rewind(1)
