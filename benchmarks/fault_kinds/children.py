"""Processes that a trial forks: to be killed, to fill a disk, to race.
What they print and raise comes back.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from fault_kinds.material import Fault

REFUSED = 2
RAW = 3

_EVENTS = frozenset(
    {
        "os.rename",
        "os.remove",
        "os.mkdir",
        "os.rmdir",
        "os.link",
        "os.symlink",
        "os.truncate",
        "os.chmod",
        "os.utime",
        "shutil.rmtree",
    }
)


class Child:
    """A forked process that does one thing."""

    def __init__(self, action: Callable[[], object], log: Path) -> None:
        self.log = log
        self.began = time.monotonic()
        sys.stdout.flush()
        self.process = os.fork()
        if self.process == 0:
            _run(action, log)

    def wait(self, limit: float) -> int:
        """Its exit status, negative for a signal.
        Raises :class:`Fault` if it takes longer, or raised what is not ours.
        """
        status = self.poll(limit)
        if status is None:
            self.kill()
            raise Fault(f"hang: no end after {limit:.0f} s: {self.said()}")
        if status == RAW:
            raise Fault(f"raw exception: {self.said()}")
        return status

    def poll(self, limit: float) -> int | None:
        """Its exit status once it has ended, or None after the limit."""
        end = time.monotonic() + limit
        while True:
            done, status = os.waitpid(self.process, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > end:
                return None
            time.sleep(0.002)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; after SIGKILL it is gone."""
        os.kill(self.process, number)
        if number == signal.SIGKILL:
            os.waitpid(self.process, 0)

    def said(self) -> str:
        """The end of what it printed and raised."""
        return self.log.read_text(errors="replace").strip()[-1500:] if self.log.exists() else ""


def run(action: Callable[[], object], log: Path, limit: float) -> int:
    """Do it in a child; the exit status as :meth:`Child.wait` gives it: 0,
    or 2 for an error of ours.
    """
    return Child(action, log).wait(limit)


def _run(action: Callable[[], object], log: Path) -> NoReturn:
    from sc2onnx.errors import Sc2onnxError

    status = RAW
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        try:
            result = action()
            status = result if isinstance(result, int) else 0
        except Sc2onnxError as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode(errors="backslashreplace"))
            status = REFUSED
        except KeyboardInterrupt:  # before the command was there to be told
            status = 130
        except SystemExit as ended:
            status = int(ended.code or 0)
        except BaseException:
            os.write(2, traceback.format_exc().encode(errors="backslashreplace"))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def die_at(event: int, number: int) -> None:
    """From now on, send this process a signal before its file-system event of
    that number; -1 never does.
    """
    seen = 0

    def hook(name: str, arguments: Sequence[Any]) -> None:
        nonlocal seen
        if name not in _EVENTS and not (name == "open" and _writes(arguments)):
            return
        seen += 1
        if seen == event + 1:  # the handler of a signal may raise from here
            os.kill(os.getpid(), number)

    sys.addaudithook(hook)


def count_events(action: Callable[[], object], log: Path, limit: float) -> int:
    """How many file-system events there are."""
    counted = log.with_suffix(".events")

    def counting() -> None:
        seen = 0

        def hook(name: str, arguments: Sequence[Any]) -> None:
            nonlocal seen
            seen += name in _EVENTS or (name == "open" and _writes(arguments))

        sys.addaudithook(hook)
        action()
        total = seen
        counted.write_text(str(total))

    if run(counting, log, limit):
        raise Fault(f"it fails undisturbed: {log.read_text(errors='replace')[-500:]}")
    return int(counted.read_text())


def _writes(arguments: Sequence[Any]) -> bool:
    flags = arguments[2] if len(arguments) > 2 and isinstance(arguments[2], int) else 0
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


@contextmanager
def environment(**values: str) -> Any:
    """Variables for the time of a trial."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
