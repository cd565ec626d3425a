"""The ``sc2onnx`` command: which function runs which command, and what surrounds them all."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Final, NoReturn

from sc2onnx.cli import bundles
from sc2onnx.cli.boundary import guarded
from sc2onnx.cli.options import parser
from sc2onnx.cli.process import (
    occupy_standard_descriptors,
    quiet_warnings,
    standard_streams,
    terminated_is_exit,
)

COMMANDS: Final[Mapping[str, str]] = {
    "export": "exporting",
    "plan": "inspecting",
    "verify": "measuring",
    "evaluate": "measuring",
    "bench": "measuring",
    "generate": "generating",
    "infill": "generating",
    "chat": "chatting",
    "batch": "batching",
    "serve": "serving",
    "route": "routing",
    "lsp": "lsp",
    "attribution": "attributing",
    "adapter": "adapter",
    "info": "inspecting",
    "warm": "bundles",
    "push": "bundles",
    "doctor": "inspecting",
    "completion": "completing",
}
"""Command -> the module whose function of that name runs it and returns the exit status. It is
imported when it is asked for: the runtime alone has not all of them.
"""

RUN_BUNDLES: Final = ("evaluate", "bench", "batch", "generate", "infill", "chat", "warm")
"""Commands whose bundles may be on the hub, and are found before they run;
``serve`` answers meanwhile.
"""


def entry() -> NoReturn:
    """Run the ``sc2onnx`` command and exit."""
    occupy_standard_descriptors()
    raise SystemExit(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (:data:`sc2onnx.cli.boundary.STATUSES`).

    Raises :class:`SystemExit` for signals only.
    """
    with standard_streams():
        known = parser()
        try:
            args = known.parse_args(arguments)
            if args.command is None:
                known.print_help()
        except SystemExit as ended:  # help, or a mistake that was told of
            status = int(ended.code or 0)
            return guarded("", lambda: status)
        except ModuleNotFoundError as error:  # the runtime alone has not this command's options
            return guarded("", partial(_raise, error))
        return guarded(args.command or "", lambda: _run(args) if args.command else 0)


def _raise(error: ModuleNotFoundError) -> NoReturn:
    raise error


def _run(args: argparse.Namespace) -> int:
    with quiet_warnings(), terminated_is_exit():
        if args.command in RUN_BUNDLES:
            args.bundle = bundles.located(args.bundle, getattr(args, "revision", None))
            args.also = [bundles.located(bundle) for bundle in getattr(args, "also", [])]
        return _command(args.command)(args)


def _command(name: str) -> Callable[[argparse.Namespace], int]:
    module = import_module(f"sc2onnx.cli.{COMMANDS[name]}")
    found: Callable[[argparse.Namespace], int] = getattr(module, name)
    return found
