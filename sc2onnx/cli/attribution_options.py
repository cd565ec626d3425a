"""What says which files a text may repeat. Imports no package but this one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sc2onnx.cli import common_options as common

if TYPE_CHECKING:
    from sc2onnx.attribution.attribution import Attribution

ACTIONS: Final = ("index", "check")

LEAST: Final = 50
FILES: Final = 50
"""``USUAL_LEAST`` and ``USUAL_FILES`` of ``sc2onnx.attribution.repetitions``, whose room needs
numpy."""


def command(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``attribution``."""
    action = "index files, or check what of a text they have"
    parser.add_argument("action", choices=ACTIONS, help=action)
    paths = "index: directories or files; check: an index, and a file ('-' or nothing: stdin)"
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH", help=paths)
    left = "leave out files and directories of this name or path, with * (repeatable)"
    parser.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help=left)
    large = "leave out files that are larger (default: 1048576)"
    parser.add_argument("--most-bytes", type=int, metavar="BYTES", help=large)
    _rules(parser)
    output = common.grouped(parser, "output")
    made = "the file to make; an index that is there is replaced"
    output.add_argument("--output", type=Path, metavar="OUT", help=made)
    common.json_option(parser)


def marking(parser: argparse.ArgumentParser, *, configured: bool = False) -> None:
    """Add the options of commands that complete. ``configured``: what is not given may be said
    elsewhere.
    """
    index = "tell which files of an index a completion repeats (default: none is looked at)"
    group = common.grouped(parser, "attribution")
    group.add_argument("--attribution", metavar="INDEX", help=index)
    _rules(parser, configured=configured)


def _rules(parser: argparse.ArgumentParser, *, configured: bool = False) -> None:
    group = common.grouped(parser, "attribution")
    least = f"words and symbols of the shortest repetition (default: {LEAST})"
    usual = None if configured else LEAST
    group.add_argument("--least-repeated", type=int, default=usual, metavar="N", help=least)
    files = f"what stands in more files does not count; 0: any number does (default: {FILES})"
    usual = None if configured else FILES
    group.add_argument("--most-files", type=int, default=usual, metavar="N", help=files)


def attribution_of(args: argparse.Namespace) -> Attribution | None:
    """What the options of a command that completes ask for. Raises
    :class:`~sc2onnx.errors.RequestError`.
    """
    if args.attribution is None:
        return None
    from sc2onnx.attribution.attribution import Attribution

    return Attribution.open(args.attribution, args.least_repeated, args.most_files)
