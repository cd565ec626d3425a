"""The ``sc2onnx`` command: which function runs which command, and what surrounds them all."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NoReturn

from sc2onnx.cli import batching, bundles, exporting, generating, inspecting, lsp, measuring, routing, serving
from sc2onnx.cli.boundary import guarded
from sc2onnx.cli.options import parser
from sc2onnx.cli.process import (
    occupy_standard_descriptors,
    quiet_warnings,
    standard_streams,
    terminated_is_exit,
)

COMMANDS: Final[Mapping[str, Callable[[argparse.Namespace], int]]] = {
    "export": exporting.export,
    "verify": measuring.verify,
    "evaluate": measuring.evaluate,
    "bench": measuring.bench,
    "batch": batching.batch,
    "generate": generating.generate,
    "infill": generating.infill,
    "serve": serving.serve,
    "route": routing.route,
    "lsp": lsp.lsp,
    "info": inspecting.info,
    "warm": bundles.warm,
    "push": bundles.push,
    "doctor": inspecting.doctor,
}
"""Command -> what runs it and returns the exit status."""

RUN_BUNDLES: Final = ("evaluate", "bench", "batch", "generate", "infill", "warm")
"""Commands whose bundles may be on the hub, and are found before they run; ``serve`` answers meanwhile."""


def entry() -> NoReturn:
    """Run the ``sc2onnx`` command and exit."""
    occupy_standard_descriptors()
    raise SystemExit(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (:data:`sc2onnx.cli.boundary.STATUSES`).

    Raises :class:`SystemExit` for signals only.
    """
    with standard_streams():
        try:
            args = parser().parse_args(arguments)
        except SystemExit as ended:  # help, or a mistake that was told of
            status = int(ended.code or 0)
            return guarded("", lambda: status)
        return guarded(args.command, lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    with quiet_warnings(), terminated_is_exit():
        if args.command in RUN_BUNDLES:
            args.bundle = bundles.located(args.bundle, getattr(args, "revision", None))
            args.also = [bundles.located(bundle) for bundle in getattr(args, "also", [])]
        return COMMANDS[args.command](args)
