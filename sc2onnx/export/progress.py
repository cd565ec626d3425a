"""What an export tells of itself: a bar on a terminal, one line per stage
otherwise, nothing by default.
"""

from __future__ import annotations

import sys
import time
from typing import Final, Protocol, TextIO

from tqdm import tqdm

from sc2onnx.messages import left, printable, tell


class Progress(Protocol):
    """Told of each stage, and of the bytes done within one whose total is known."""

    def stage(self, text: str, total: int = 0) -> None:
        """A stage begins; ``total`` bytes will be reported, or 0."""

    def advance(self, nbytes: int) -> None:
        """So many bytes of the stage are done."""

    def close(self) -> None:
        """The last stage is over."""


class Silent:
    """Says nothing: the library's default."""

    def stage(self, text: str, total: int = 0) -> None: ...
    def advance(self, nbytes: int) -> None: ...
    def close(self) -> None: ...


EVERY: Final = 30.0
"""Seconds between two lines of a long stage."""


class Lines:
    """One line per stage, and for long ones how far they are now and then: for logs and pipes."""

    def __init__(self, stream: TextIO, every: float = EVERY) -> None:
        self._stream, self._every = stream, every
        self._name, self._done, self._total = "", 0, 0
        self._began = self._told = time.monotonic()

    def stage(self, text: str, total: int = 0) -> None:
        tell(f"{text} ({total / 1e9:.3f} GB)" if total else text, self._stream)
        self._name, self._done, self._total = text, 0, total
        self._began = self._told = time.monotonic()

    def advance(self, nbytes: int) -> None:
        self._done += nbytes
        now = time.monotonic()
        if self._total and now - self._told >= self._every:
            self._told = now
            rest = left(now - self._began, self._done, self._total)
            tell(f"{self._name}: {self._done / self._total:.0%}{rest}", self._stream)

    def close(self) -> None: ...


class Bar:
    """A progress bar with rate and remaining time for stages that have a total."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: tqdm[None] | None = None

    def stage(self, text: str, total: int = 0) -> None:
        self.close()
        if total:
            self._bar = tqdm(
                total=total, desc=printable(text), unit="B", unit_scale=True, file=self._stream
            )
        else:
            tell(text, self._stream)

    def advance(self, nbytes: int) -> None:
        if self._bar is not None:
            self._bar.update(nbytes)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def for_stream(stream: TextIO | None = None) -> Progress:
    """A bar where a person watches, lines elsewhere; on standard error by default."""
    stream = stream or sys.stderr
    return Bar(stream) if stream.isatty() else Lines(stream)
