"""``attribution``: an index of files, and what of a text stands in them."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from sc2onnx.attribution.attribution import Attribution
from sc2onnx.attribution.building import Built, build
from sc2onnx.attribution.sources import MOST_BYTES, Files, Skipped
from sc2onnx.bundle import texts
from sc2onnx.cli.outputs import check_writable, decode, print_json, read_text
from sc2onnx.cli.terminal import say, say_all
from sc2onnx.errors import RequestError
from sc2onnx.messages import tell


def attribution(args: argparse.Namespace) -> int:
    """Run ``attribution``."""
    return _index(args) if args.action == "index" else _check(args)


def _index(args: argparse.Namespace) -> int:
    if args.output is None:
        raise RequestError("there is no file for the index, expected one: give --output OUT")
    check_writable(args.output)
    most = MOST_BYTES if args.most_bytes is None else args.most_bytes
    if most < 1:
        raise RequestError(f"--most-bytes is {most}, expected 1 or more")
    files = Files(args.paths, args.exclude, most)
    built, skipped = build(files, args.output), files.skipped
    if args.json:
        print_json({**asdict(built), "index": str(args.output), "skipped": asdict(skipped)})
        return 0
    for path in skipped.unreadable:
        tell(f"{path} cannot be read, and is left out")
    say_all(_told(args.output, built, skipped, most))
    return 0


def _told(output: Path, built: Built, skipped: Skipped, most: int) -> list[str]:
    """What was made, and what was left out."""
    size, found = f"{built.bytes / 1e6:,.1f} MB", f"{built.lexemes:,} words and symbols"
    lines = [f"{output}: {built.files:,} files, {size}, {found}"]
    if skipped.binary:
        lines.append(f"left out: {skipped.binary:,} files that are no text")
    if skipped.large:
        more = f"of more than {most:,} bytes (--most-bytes)"
        lines.append(f"left out: {skipped.large:,} files {more}")
    return lines


def _check(args: argparse.Namespace) -> int:
    if args.output is not None or args.exclude or args.most_bytes is not None:
        raise RequestError("--output, --exclude and --most-bytes are for index: leave them out")
    if len(args.paths) > 2:
        raise RequestError(f"{len(args.paths)} paths are given, expected an index and a file")
    index, *rest = args.paths
    found = Attribution.open(index, args.least_repeated, args.most_files)
    matches = found.of(_text(rest[0] if rest else Path("-")), ())
    if args.json:
        print_json([match.as_json() for match in matches])
    elif matches:
        say_all(match.told for match in matches)
    else:
        say(f"nothing of it stands in the {len(found.index):,} files of {index}")
    return 1 if matches else 0


def _text(path: Path) -> str:
    if str(path) != "-":
        return read_text(path)
    if sys.stdin is None:
        raise RequestError("there is no text: give a file, or standard input")
    return decode(texts.bounded(sys.stdin.buffer, "standard input"), "standard input")
