"""Files and JSON that commands write, and texts that they read."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from sc2onnx.bundle import texts
from sc2onnx.cli.terminal import say_all
from sc2onnx.errors import RequestError


def print_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2))


def publish(
    args: argparse.Namespace,
    table: Sequence[str],
    figures: Callable[[], Mapping[str, Any]],
    plot: Callable[[Path], None],
) -> None:
    """Print a table, or with ``--json`` its figures, and write what ``--save`` and ``--plot`` name.

    Each of them is made also where another cannot be written.
    """
    with ExitStack() as outputs:  # the last one that is entered comes first
        if args.plot is not None:
            outputs.callback(plot, args.plot)
        if args.save is not None:
            outputs.callback(lambda: write_figures(args.save, figures()))
        if args.json:
            outputs.callback(lambda: print_json(figures()))
        else:
            outputs.callback(say_all, table)


def check_outputs(args: argparse.Namespace) -> None:
    """Refuse what ``--save`` and ``--plot`` cannot be, before minutes of work."""
    from sc2onnx.plotting import check_plot

    check_writable(args.save)
    check_writable(args.plot)
    if args.plot is not None:
        check_plot(args.plot)


def check_writable(path: Path | None) -> None:
    """Raise :class:`RequestError` for a file that cannot be written: better now than in hours."""
    if path is not None and not os.access(path.parent, os.W_OK):
        found = f"{path.parent} cannot be written to"
        raise RequestError(f"{found}, expected a directory for {path.name}")


def write_figures(path: Path, figures: Mapping[str, Any]) -> None:
    """Write figures as JSON, whole or not at all. Raises :class:`RequestError`."""
    from sc2onnx.bundle.files import replace_text

    try:
        replace_text(path, json.dumps(figures, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}") from error


def read_text(path: Path) -> str:
    """Read a file of UTF-8 text, of at most 64 MiB. Raises :class:`RequestError`."""
    try:
        return decode(texts.contents(path), str(path))
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error


def read_keys(files: Sequence[Path]) -> tuple[str, ...]:
    """Read keys, one a line; lines that begin with # are none. Raises :class:`RequestError`."""
    keys = list[str]()
    for path in files:
        for number, line in enumerate(read_text(path).removeprefix("\ufeff").splitlines(), 1):
            key = line.strip()
            if not key or key.startswith("#"):
                continue
            if not key.isascii() or not key.isprintable() or len(key) < _LEAST_KEY:
                expected = f"at least {_LEAST_KEY} printable characters of ASCII"
                raise RequestError(
                    f"{path}, line {number}: the key is not what can be sent, expected {expected}"
                )
            keys.append(key)
    if files and not keys:
        raise RequestError("--key-file has no key, expected one a line")
    return tuple(keys)


_LEAST_KEY: Final = 8


def decode(data: bytes, name: str) -> str:
    """Decode UTF-8; ``name`` is what :class:`RequestError` calls it."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"{name} is not UTF-8 text ({error.reason} at byte {error.start})"
        raise RequestError(f"{found}: convert it first") from error
