"""Standard input and output, which are the protocol's alone."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

_PART: Final = 1 << 16
"""Bytes that are read at once."""


class Input:
    """Bytes of a descriptor as they come, for a running event loop.

    A daemon thread reads them: one of asyncio's own would keep a process alive that a signal is to
    end, and waiting for a descriptor without a thread is not to be had on every system.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._loop = descriptor, asyncio.get_running_loop()
        self._stream = asyncio.StreamReader()
        threading.Thread(target=self._read, name="sc2onnx-stdin", daemon=True).start()

    async def readline(self) -> bytes:
        """The next line, with its end; nothing at the end."""
        return await self._stream.readline()

    async def readexactly(self, n: int) -> bytes:
        """So many bytes; nothing where the input ends before."""
        try:
            return await self._stream.readexactly(n)
        except asyncio.IncompleteReadError:
            return b""

    def _read(self) -> None:
        part = b"-"
        with suppress(RuntimeError):  # the loop is closed
            while part:
                try:
                    part = os.read(self._descriptor, _PART)
                except OSError:  # whoever wrote is gone
                    part = b""
                give = self._stream.feed_data if part else lambda _: self._stream.feed_eof()
                self._loop.call_soon_threadsafe(give, part)


class Output:
    """Writes whole messages to a descriptor, and nothing to a client that is gone."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: bytes) -> None:
        """Write all of it."""
        with suppress(OSError):
            while data:
                data = data[os.write(self._descriptor, data) :]

    def close(self) -> None:
        """Nothing: the descriptor is its owner's."""


@contextmanager
def taken() -> Iterator[tuple[int, int]]:
    """Descriptors of standard input and output for the protocol. Meanwhile nothing else can be read
    from there, and what anybody prints goes to standard error, also by libraries in C.
    """
    source, sink = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.dup2(2, 1)
    os.close(nowhere)
    try:
        yield source, sink
    finally:
        os.dup2(sink, 1)
        os.close(sink)  # source stays open: the thread that reads may wait for it
