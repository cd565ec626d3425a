"""Whose turn it is to compute: one thread's at a time, in the order of asking."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from typing import Final

_HANDED: Final = -1
"""The owner while the next one has not woken up yet."""


class Gate:
    """Lets one waiter pass each time that it is opened.

    An event of :mod:`threading` has a lock of its own, which the garbage collector's or a signal
    handler's thread may be holding when it opens one; this has none.
    """

    def __init__(self) -> None:
        self._shut = threading.Lock()
        self._shut.acquire()

    def wait(self) -> None:
        """Return when it is open, and shut it."""
        self._shut.acquire()

    def open(self) -> None:
        """Let the one who waits, or the next one, pass."""
        with suppress(RuntimeError):  # it is open
            self._shut.release()


class Turn:
    """A lock that is fair, knows its owner, and may be asked from a signal handler."""

    def __init__(self) -> None:
        self._guard = threading.RLock()  # a signal handler may find its own thread holding it
        self._owner: int | None = None
        self._queue: deque[Gate] = deque()

    @property
    def mine(self) -> bool:
        """Whether this thread has it."""
        return self._owner == threading.get_ident()

    @property
    def free(self) -> bool:
        """Whether nobody has it."""
        return self._owner is None

    @property
    def waiting(self) -> int:
        """How many threads wait for it."""
        return len(self._queue)

    @property
    def wanted(self) -> bool:
        """Whether another thread waits for it."""
        return bool(self._queue)

    def try_take(self) -> bool:
        """Take it if it is free and nobody waits."""
        with self._guard:
            if self._owner is not None or self._queue:
                return False
            self._owner = threading.get_ident()
            return True

    def take(self) -> None:
        """Take it, after those who wait already."""
        if self.try_take():
            return
        ticket = Gate()
        with self._guard:
            if self._owner is None:
                self._owner = threading.get_ident()
                return
            self._queue.append(ticket)
        try:
            ticket.wait()
        except BaseException:  # a signal handler's
            with self._guard:
                if ticket in self._queue:
                    self._queue.remove(ticket)
                else:
                    self.give()
            raise
        self._owner = threading.get_ident()

    def give(self) -> None:
        """Hand it to the next one who waits."""
        with self._guard:
            if self._queue:
                self._owner = _HANDED
                self._queue.popleft().open()
            else:
                self._owner = None
