"""How far work is: one line that changes on a terminal, lines now and then elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import get_terminal_size
from typing import Final

from sc2onnx.cli.terminal import is_terminal
from sc2onnx.messages import duration, left, printable, tell

ON_TERMINAL: Final = 0.5
"""Seconds between two looks of a person at a terminal."""

PATIENCE: Final = 2.0
"""Seconds of work that nothing is told of."""

_SLOW: Final = 5e7
"""Bytes a second: files are read faster, so this is no step that consists of reading them."""

_ERASE: Final = "\r\x1b[K"


class Progress:
    """Takes lines that tell how far work is, and shows them on standard error.

    ``every``: seconds between two that are worth making; ``elsewhere`` is that number where no
    person watches. A line that is ``kept`` stays, and the next one comes below it.
    """

    def __init__(self, quiet: bool = False, elsewhere: float = 10.0) -> None:
        self.quiet, self.in_place = quiet, is_terminal(sys.stderr)
        self.every = ON_TERMINAL if self.in_place else elsewhere
        self._shown = False

    def __call__(self, line: str) -> None:
        """Show a line in the place of the one before."""
        if self.quiet:
            return
        if not self.in_place:
            tell(line)
            return
        width = get_terminal_size().columns - 1
        self._write(f"{_ERASE}{printable(line)[:width]}")
        self._shown = True

    def keep(self, line: str) -> None:
        """Show a line that stays."""
        self.clear()
        if not self.quiet:
            tell(line)

    def clear(self) -> None:
        """Leave nothing on the terminal."""
        if self._shown:
            self._write(_ERASE)
            self._shown = False

    @staticmethod
    def _write(text: str) -> None:
        with suppress(OSError, ValueError):  # a terminal that is gone ends no work
            print(text, end="", file=sys.stderr, flush=True)


@contextmanager
def progress(quiet: bool = False, elsewhere: float = 10.0) -> Iterator[Progress]:
    """Make a progress, and clear the terminal of it at the end."""
    made = Progress(quiet, elsewhere)
    try:
        yield made
    finally:
        made.clear()


@contextmanager
def waiting(text: str, size: int = 0, quiet: bool = False) -> Iterator[Callable[[], None]]:
    """Tell on a terminal that one long step is under way, from its third second on.

    ``size``: bytes that the step reads; where the operating system counts those of this process
    (Linux), they tell how long it takes yet. Yields what ends the telling before the step does.
    """
    shown, ended = Progress(quiet), threading.Event()
    ticker = threading.Thread(target=_tick, args=(shown, text, size, ended), daemon=True)

    def end() -> None:
        ended.set()
        if ticker.is_alive():
            ticker.join()
        shown.clear()

    if shown.in_place and not quiet:
        ticker.start()
    try:
        yield end
    finally:
        end()


def _tick(shown: Callable[[str], None], text: str, size: int, ended: threading.Event) -> None:
    began, before = time.monotonic(), _bytes_read()
    while not ended.wait(ON_TERMINAL):
        took = time.monotonic() - began
        if took > PATIENCE:
            read = _bytes_read() - before
            rest = left(took, read, size) if read > _SLOW * took else ""
            shown(f"{text}: {duration(took)}{rest}")


def _bytes_read() -> int:
    """Return the bytes that this process has read from files; 0 where nobody counts them."""
    with suppress(OSError, ValueError, IndexError):
        counters = Path(f"/proc/{os.getpid()}/io").read_text(encoding="ascii")
        return int(counters.split()[1])  # rchar: N
    return 0
