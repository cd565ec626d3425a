"""The end of the interpreter, under threads that compute.

A daemon thread that comes back from C++ to an interpreter that is ending is ended there, which C++
does not survive: the whole process aborts (``terminate called``, status 134). So at exit what
computes in such threads is cancelled and waited for, and nothing begins any more. Threads that are
no daemons have ended by then.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from sc2onnx.errors import CancelledError

PATIENCE: Final = 10.0
"""Seconds that the end waits at most.
A step stops within about one operator; a graph that is being loaded cannot be stopped.
"""

# how to cancel what computes; changed without a lock, which a signal handler might find held
_inside: Final[dict[object, Callable[[], object]]] = {}
_ending = False


@contextmanager
def computing(cancel: Callable[[], object]) -> Iterator[None]:
    """Have the interpreter not end while the block runs, which ``cancel`` stops.

    Raises :class:`CancelledError` in a daemon thread of an interpreter that is ending.
    """
    key = object()
    _inside[key] = cancel  # before the look at _ending: _end sees this, or this sees _end
    try:
        if _ending and threading.current_thread().daemon:
            raise CancelledError(
                "the program is ending: nothing is computed in its daemon threads any more"
            )
        yield
    finally:
        del _inside[key]


def _end() -> None:
    global _ending
    _ending, until = True, time.monotonic() + PATIENCE
    while _inside and time.monotonic() < until:
        for cancel in list(_inside.values()):
            cancel()
        time.sleep(0.001)


atexit.register(_end)
if hasattr(os, "register_at_fork"):  # whose threads are not there
    os.register_at_fork(after_in_child=_inside.clear)
