"""Processes that do trials one after the other, and are replaced when one
of them crashes or hangs.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import tempfile
import traceback
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fault_kinds import KINDS, trial
from fault_kinds.material import Fault, Material

_MEMORY = 24 << 30
"""Address space of a worker: a flood of memory is an exception there,
not the end of the machine.
"""

_START = 60.0
"""Seconds that a new process may take to import what it needs, on top of its first trial."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: ``held`` or not, and what happened."""

    kind: str
    number: int
    held: bool
    note: str


class Worker:
    """A process for trials of kinds that fork, or of those that do not."""

    def __init__(self, material: Material, keep: Path | None) -> None:
        self._material, self._keep = material, keep
        self._process: Any = None
        self._fresh: set[str] = set()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self._material.directory, self._keep), daemon=False
        )
        self._process.start()
        theirs.close()
        self._fresh = set(KINDS)

    def do(self, name: str, seed: int, number: int) -> Outcome:
        """One trial. A process that dies or does not answer in time is a failure of the trial."""
        if self._process is None:
            self._start()
        kind, costs = KINDS[name], self._material.costs
        limit = 10 + 3 * (kind.exports * costs["export"] + kind.loads * costs["load"])
        patience = limit * (6 if kind.forks else 1) + (_START if name in self._fresh else 0)
        self._fresh.discard(name)
        self._ours.send((name, seed, number, limit))
        try:
            if self._ours.poll(patience):
                return Outcome(name, number, *self._ours.recv())
            self.stop()
            return Outcome(name, number, False, f"hang: no answer after {patience:.0f} s")
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            self._process = None
            return Outcome(name, number, False, f"crash: the process ended with {code}")

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def _serve(pipe: Connection, material: Path, keep: Path | None) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    # panics of Rust libraries and complaints of C++ ones
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    while True:
        try:
            name, seed, number, limit = pipe.recv()
        except EOFError:
            return
        pipe.send(_done(name, seed, number, limit, Material(material), keep))


def _done(
    name: str, seed: int, number: int, limit: float, material: Material, keep: Path | None
) -> tuple[bool, str]:
    scratch = Path(tempfile.mkdtemp(prefix="fault-", dir=material.directory))
    process = os.getpid()
    held = False
    try:
        note = trial(name, seed, number, limit, material, scratch)
        held = True
        return True, note
    except Fault as fault:
        return False, str(fault)
    except BaseException as error:  # also the panics of Rust libraries, which are no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        return (
            False,
            (
                f"raw exception: {type(error).__name__}: {str(error)[:300]} "
                f"({Path(last.filename).name}:{last.lineno})"
            ),
        )
    finally:
        if os.getpid() == process:
            if keep is not None and not held:
                shutil.copytree(
                    scratch,
                    keep / f"{name}-{seed}-{number}",
                    symlinks=True,
                    dirs_exist_ok=True,
                    ignore_dangling_symlinks=True,
                )
            shutil.rmtree(scratch, ignore_errors=True)
