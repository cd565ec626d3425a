"""Work in a thread that the end of the program does not wait for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


async def in_daemon(work: Callable[[], T]) -> T:
    """What ``work`` returns or raises, computed in a daemon thread: a program that ends while a
    model loads does not wait for it. asyncio's own threads would be waited for.
    """
    coming = Future[T]()
    coming.set_running_or_notify_cancel()  # from here on it cannot be cancelled, only left

    def run() -> None:
        try:
            coming.set_result(work())
        except BaseException as error:  # also the panics of Rust libraries, which are no Exception
            coming.set_exception(error)

    threading.Thread(target=run, name="sc2onnx-aside", daemon=True).start()
    return await asyncio.wrap_future(coming)
