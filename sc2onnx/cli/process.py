"""The process of a command: its standard streams and descriptors, warnings and signals."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

from sc2onnx.errors import MissingDependencyError
from sc2onnx.hints import install
from sc2onnx.messages import tell

_PACKAGE: Final = Path(__file__).parent.parent


@contextmanager
def standard_streams() -> Iterator[None]:
    """Make the standard streams ones that can be written to, whatever they are.

    Characters that a stream lacks are shown as others, and a stream that is None leads nowhere.
    """
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
        for stream, errors in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors=errors)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def occupy_standard_descriptors() -> None:
    """Open descriptors 0 to 2 that were closed when the process began.

    The next files that it opens would get these numbers otherwise, and what a library prints
    would be written into them.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # the next call gets the lowest number that is free
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)


@contextmanager
def quiet_warnings(tell: Callable[[str], None] = tell) -> Iterator[None]:
    """Show our own warnings as one line each; those of other packages are for their developers."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        if Path(filename).is_relative_to(_PACKAGE):
            tell(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextmanager
def terminated_is_exit() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack, so that a half-written bundle is removed.

    SIGHUP is left alone where it does not exist or is ignored, as under nohup.
    """

    def leave(number: int, frame: object) -> NoReturn:
        for each in handled:  # a session that ends sends several: none may stop the clearing up
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # only that one handles signals
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    found = {number: signal.getsignal(number) for number in numbers}
    handled = {number: before for number, before in found.items() if before is not signal.SIG_IGN}
    for number in handled:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, before in handled.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)


class Asked:
    """Whether a signal asked to stop: its ``number``, 0 before."""

    def __init__(self) -> None:
        self.number = 0


@contextmanager
def asked_to_stop() -> Iterator[Asked]:
    """Let the first SIGINT, SIGTERM or SIGHUP only be noted; a second one does what it did before.

    Those that are ignored stay so.
    """
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():  # only that one handles signals
        yield asked
        return
    numbers = [
        getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
    ]
    found = {number: signal.getsignal(number) for number in numbers}
    handled = {number: before for number, before in found.items() if before is not signal.SIG_IGN}

    def as_before() -> None:
        for number, before in handled.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)

    def note(number: int, frame: object) -> None:
        asked.number = number
        as_before()

    for number in handled:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        as_before()


@contextmanager
def needing(extra: str, what: str) -> Iterator[None]:
    """Say how to install ``extra`` where an import in the block misses a package of it.

    ``what`` needs it. Raises :class:`~sc2onnx.errors.MissingDependencyError`.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("sc2onnx"):
            raise
        raise MissingDependencyError(f"{what} needs {error.name}: {install(extra)}") from error
