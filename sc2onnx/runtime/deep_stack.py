"""Work in a thread with a deep stack, for libraries that recurse as deep as their input is long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

_BYTES: Final = 256 << 20
"""Of the stack; only what is used of it takes memory. Inputs of
:mod:`sc2onnx.runtime.choose.constraint` take a fifth at most.
"""

_sizing: Final = threading.Lock()

T = TypeVar("T")


def on_a_deep_stack(work: Callable[[], T]) -> T:
    """What ``work`` returns or raises, computed in a thread of its own with a deep stack."""
    coming = Future[T]()

    def run() -> None:
        try:
            coming.set_result(work())
        except BaseException as error:  # also the panics of Rust libraries, which are no Exception
            coming.set_exception(error)

    with _sizing:  # the size is a setting of the process, for threads that start meanwhile
        before = threading.stack_size(_BYTES)
        try:
            threading.Thread(target=run, name="sc2onnx-deep", daemon=True).start()
        finally:
            threading.stack_size(before)
    return coming.result()
