"""A process of a fleet on one machine: a server at a Unix socket. Not for people to start."""

from __future__ import annotations

import os
import socket
import sys
import threading
from contextlib import suppress
from typing import Final

import msgspec

from sc2onnx.errors import Sc2onnxError
from sc2onnx.serve.configuration import Configuration
from sc2onnx.serve.logs import set_up

FAILED: Final = 3
"""Exit status of a worker that cannot serve, and has said why."""


class Orders(msgspec.Struct):
    """What a worker is told on its standard input, as JSON on one line: where it listens, on which
    processors it runs, what it serves.
    """

    name: str
    socket: str
    processors: list[int]
    keys: list[str]
    configuration: Configuration


def main() -> int:
    """Serve until a signal, or until the process that started it is gone."""
    orders = msgspec.json.decode(_line(), type=Orders)
    if orders.processors:
        os.sched_setaffinity(0, orders.processors)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_up(orders.configuration.log, {"worker": orders.name})

    from sc2onnx.serve.loading import loaded
    from sc2onnx.serve.run import LOG, serve

    settings = orders.configuration.settings(tuple(orders.keys))
    try:
        serve(
            settings,
            lambda: loaded(orders.configuration),
            lambda line: LOG.info("%s", line),
            _listening(orders.socket),
        )
    except Sc2onnxError as error:
        LOG.error("%s", error)
        return FAILED
    return 0


def _listening(path: str) -> socket.socket:
    with suppress(FileNotFoundError):
        os.unlink(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(path)
    listening.listen(256)
    return listening


def _line() -> bytes:
    """A line of standard input, and nothing of what follows it."""
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as given:
        return given.readline()


def _end_with_parent() -> None:
    """Standard input ends when whoever holds its other end does, however that ends."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    raise SystemExit(main())
