"""A program of its own that runs code which a model wrote, and then tests of it.

JSON comes on standard input; if all of it ran, a token goes to standard output. Before it runs
anything, it gives up what such code needs not: new descriptors, and with them files and network;
memory, processor time, children. What the system would still grant, such as removing files or
sending signals, is refused by an audit hook, which cannot be taken off.

This file imports nothing of sc2onnx: it is run by its path.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import resource
import sys
from itertools import product
from typing import Any, Final

_REFUSED: Final = (
    "ctypes.",
    "fcntl.",
    "ftplib.",
    "gc.",
    "http.",
    "mmap.",
    "msvcrt.",
    "open",
    "os.",
    "pty.",
    "resource.",
    "shutil.",
    "signal.",
    "socket.",
    "sqlite3.",
    "subprocess.",
    "syslog.",
    "tempfile.",
    "urllib.",
)
"""How events of Python's audit begin that small programs have no need of."""

_UNTOLD: Final = ("mkfifo", "mknod")
"""What the audit is not told of."""

_USUAL: Final = (
    "bisect",
    "collections",
    "copy",
    "dataclasses",
    "datetime",
    "enum",
    "functools",
    "heapq",
    "itertools",
    "json",
    "math",
    "operator",
    "random",
    "re",
    "string",
    "typing",
)
"""Modules that code may import: later no file can be opened."""


class _Nowhere:
    """Where what is printed goes."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


def main(arguments: list[str]) -> None:
    """Run what is asked for. ``arguments``: seconds of processor time, and bytes of memory."""
    asked = json.loads(sys.stdin.buffer.read())
    for name in _USUAL:
        __import__(name)
    token, write, leave = asked["token"].encode(), os.write, os._exit
    sys.stdin, sys.stdout, sys.stderr = None, _Nowhere(), _Nowhere()
    _confine(float(arguments[0]), int(arguments[1]))
    for module, name in product(("os", "posix"), _UNTOLD):
        with contextlib.suppress(AttributeError):
            delattr(sys.modules[module], name)
    sys.addaudithook(_refuse)
    names: dict[str, Any] = {"__name__": "contained", "__builtins__": builtins}
    try:
        for part in ("code", "tests"):
            exec(compile(asked[part], part, "exec"), names)  # noqa: S102 - what this is for
    except BaseException:  # SystemExit as well: tests that did not run are not passed
        leave(1)
    write(1, token)
    leave(0)


def _confine(seconds: float, memory: int) -> None:
    bounds = {
        "AS": memory,
        "CORE": 0,
        "CPU": int(seconds) + 1,
        "DATA": memory,
        "FSIZE": 1 << 10,
        "NOFILE": 0,
        "NPROC": 0,
    }
    for name, most in bounds.items():
        with contextlib.suppress(AttributeError, OSError, ValueError):  # macOS lacks some
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))


def _refuse(event: str, given: tuple[object, ...]) -> None:
    if event.startswith(_REFUSED):
        raise PermissionError(event)


if __name__ == "__main__":
    main(sys.argv[1:])
