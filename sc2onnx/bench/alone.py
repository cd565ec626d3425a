"""What an engine takes when nothing else is there: load time and memory, in a process of its own."""

from __future__ import annotations

import gc
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sc2onnx.bench.engine import Engine, Opener


@dataclass(frozen=True, slots=True)
class Alone:
    """Seconds and bytes. ``load``: the second time in the process, so with its files read before and its packages imported.

    Memory after tokens were decoded at the depth asked for, Python included, where the operating system tells (Linux), else None:
    ``peak``, the most that was resident, mapped weights included; ``private``, what no other process shares, at the end.
    """

    load: float
    peak: int | None
    private: int | None


def alone(opener: Opener, depth: int) -> Alone:
    """Measure in a fresh process. Raises whatever opening raises, and ``BrokenProcessPool`` if the system killed it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, opener, depth).result()


def _measure(opener: Opener, depth: int) -> Alone:
    with opener() as engine:
        _decode(engine, depth)
        peak, private = _memory("VmHWM"), _memory("RssAnon")
    del engine
    gc.collect()
    began = time.perf_counter()
    with opener():
        return Alone(time.perf_counter() - began, peak, private)


def _decode(engine: Engine, depth: int) -> None:
    engine.place(depth)
    for _ in range(2):
        engine.append(np.zeros(1, dtype=np.int64))
        engine.rewind(1)


def _memory(name: str) -> int | None:
    """A line of the kernel's account of this process (``proc(5)``), in bytes; None elsewhere than on Linux."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
