"""What a fork leaves of a loaded model: its memory, but none of the threads that compute.

In the child a step would wait for threads that are not there, and so would the destructor of a
session, which joins them: at ``del``, at the garbage collector's next turn, or at exit. So a model
says that it was forked, and the child never destroys the sessions that it inherited.
"""

from __future__ import annotations

import ctypes
import os
import sys
import weakref
from dataclasses import dataclass
from typing import Any, Final, Self

from sc2onnx.errors import ForkedError

_sessions: Final[weakref.WeakSet[Any]] = weakref.WeakSet()
_generation = 0
"""Forks between the first process and this one.
A process number alone does not tell: in a container a child may have its parent's.
"""


@dataclass(frozen=True, slots=True)
class Process:
    """The process in which something was made that cannot be used in a child forked from it."""

    generation: int
    number: int

    @classmethod
    def here(cls) -> Self:
        """The process that is running."""
        return cls(_generation, os.getpid())

    @property
    def forked(self) -> bool:
        """Whether the process that is running is another."""
        # a fork that Python knows nothing of has a new number
        return self.generation != _generation or self.number != os.getpid()

    def check(self) -> None:
        """Raise :class:`ForkedError` in a process forked from this one.
        Takes no lock: one that another thread held is never released there.
        """
        if self.forked:
            raise ForkedError(
                f"the model was loaded in process {self.number} and is used in process "
                f"{os.getpid()}, forked from it, where its threads are not: load it after the fork"
            )


def not_portable(thing: object) -> TypeError:
    """What to raise where an object is to be pickled or copied that belongs to its process: its
    sessions, threads and locks do.
    """
    name = type(thing).__name__
    return TypeError(
        f"a {name} belongs to its process and cannot be pickled or copied: share it between "
        "threads, load the model in each process"
    )


def outlive(session: Any) -> None:
    """Have a session outlive every child that is forked while it is there."""
    _sessions.add(session)


def keep_for_ever(thing: Any) -> None:
    """Never destroy this object, not even when the interpreter ends."""
    if sys.implementation.name == "cpython":
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    else:  # an interpreter that destroys nothing at its end
        _kept.append(thing)


_kept: Final[list[Any]] = []


def _in_child() -> None:
    global _generation
    _generation += 1
    for session in list(_sessions):
        keep_for_ever(session)


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_in_child)
