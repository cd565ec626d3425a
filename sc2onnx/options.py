"""What the command line accepts. Imports nothing but the standard library."""

from __future__ import annotations

import argparse
from pathlib import Path

from sc2onnx import __version__


def parser() -> argparse.ArgumentParser:
    """The whole command line; the chosen command is in ``command``."""
    top = argparse.ArgumentParser(prog="sc2onnx", description="Run StarCoder2 outside PyTorch.")
    top.add_argument("--version", action="version", version=f"sc2onnx {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    export = commands.add_parser("export", help="turn a checkpoint into a bundle")
    export.add_argument("checkpoint", help="directory, or hub id such as bigcode/starcoder2-3b")
    export.add_argument("out", type=Path, help="directory to make")
    export.add_argument("--precision", default="fp32", help="fp32")
    export.add_argument("--revision", help="branch, tag or commit on the hub")
    export.add_argument("--overwrite", action="store_true", help="replace the bundle at OUT")
    export.add_argument("--json", action="store_true", help="print the manifest as JSON")

    verify = commands.add_parser("verify", help="compare a bundle with torch and record the outcome in it")
    verify.add_argument("bundle", type=Path)
    verify.add_argument("checkpoint", help="what the bundle was exported from: directory or hub id")
    verify.add_argument("--json", type=Path, metavar="FILE", help="write every figure to a file")
    verify.add_argument("--text", type=Path, metavar="FILE", help="code to verify on (default: argparse.py of this Python)")
    verify.add_argument("--max-length", type=int, metavar="N", help="compare no more than N tokens")
    verify.add_argument("--greedy", type=int, default=256, metavar="N", help="greedy tokens to compare (default: 256)")

    generate = commands.add_parser("generate", help="continue a prompt")
    generate.add_argument("bundle", type=Path)
    generate.add_argument("prompt", nargs="?", help="the prompt; '-' or nothing reads standard input")
    generate.add_argument("--file", type=Path, help="read the prompt from a file")
    generate.add_argument("--echo", action="store_true", help="print the prompt first")
    _generation_options(generate)

    infill = commands.add_parser("infill", help="complete at a cursor in a file")
    infill.add_argument("bundle", type=Path)
    infill.add_argument("file", type=Path)
    infill.add_argument("--line", type=int, required=True, help="line of the cursor, from 1")
    infill.add_argument("--column", type=int, required=True, help="column of the cursor, from 1: 1 is before the first character")
    infill.add_argument("--path", help="path of the file in its repository, as context")
    infill.add_argument("--repo", help="name of the repository, as context")
    infill.add_argument("--context", type=Path, action="append", default=[], metavar="FILE", help="another file of the repository (repeatable)")
    infill.add_argument("--prompt-tokens", type=int, metavar="N", help="how much of the file to use (default: as much as the model's context takes)")
    _generation_options(infill)

    info = commands.add_parser("info", help="what a bundle is, and the memory it needs")
    info.add_argument("bundle", type=Path)
    info.add_argument("--context", type=int, metavar="N", help="memory at so many tokens (default: the model's context)")
    info.add_argument("--json", action="store_true")

    doctor = commands.add_parser("doctor", help="what works on this machine, and what is missing")
    doctor.add_argument("--json", action="store_true")
    return top


def _generation_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-new-tokens", type=int, default=128, metavar="N")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (the default)")
    parser.add_argument("--top-k", type=int, default=0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--min-p", type=float, default=0.0)
    parser.add_argument("--repetition-penalty", type=float, default=1.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text (repeatable)")
    parser.add_argument("--logprobs", action="store_true", help="with --json: log probability of each token")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of streaming")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
