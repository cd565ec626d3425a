"""What the command line accepts. Imports no package but this one."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sc2onnx import __version__
from sc2onnx.cli.batch_options import batch_options
from sc2onnx.cli.boundary import STATUSES
from sc2onnx.cli.common_options import (
    BRANCH,
    allow_setting,
    also,
    bench_options,
    generation_options,
    processor_options,
)
from sc2onnx.cli.parsing import CommandParser, Parser
from sc2onnx.cli.serving_options import lsp, route, serve

ORDERS: Final = ("psm", "spm")
"""``sc2onnx.runtime.text.fim.FimOrder``, whose room needs tokenizers."""

SHAPES: Final = ("3b", "7b", "15b")
"""Keys of ``sc2onnx.export.shapes.SHAPES``, which needs the exporter's packages."""

_ORDER: Final = "what comes first in the prompt, prefix or suffix (default: psm)"
_EVERY_FIGURE: Final = "write every figure to a file"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; the chosen command is in ``command``."""
    top = Parser(
        prog="sc2onnx",
        description="Run StarCoder2 outside PyTorch.",
        epilog=STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"sc2onnx {__version__}")
    commands = top.add_subparsers(
        dest="command",
        required=True,
        metavar="COMMAND",
        parser_class=CommandParser,
    )
    for name, (fill, summary) in _COMMANDS.items():
        fill(commands.add_parser(name, help=summary))
    return top


def _export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="directory, or hub id such as bigcode/starcoder2-3b")
    parser.add_argument("out", type=Path, help="directory to make")
    parser.add_argument(
        "--precision",
        default="fp32",
        help="fp32 (the default), int8, int4, int4-fast or a recipe in a .json file; for cuda fp16, bf16, int8 or int4",
    )
    parser.add_argument(
        "--target",
        default="cpu",
        help="what it is to run on: cpu, portable (standard operators only), cuda, genai (onnxruntime-genai) or optimum (default: cpu)",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="texts to round with the statistics of (default: code that sc2onnx ships)",
    )
    parser.add_argument(
        "--no-calibration",
        action="store_true",
        help="round to the nearest, and lift nothing: a minute instead of hours, at 3.6 times the divergence (docs/quality.md)",
    )
    tokens = "how much of the text to use; time is in proportion"
    parser.add_argument("--calibration-tokens", type=int, metavar="N", help=tokens)
    parser.add_argument(
        "--stages",
        type=int,
        default=1,
        metavar="N",
        help="cut the layers into N graphs, for several devices (default: 1)",
    )
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    allow_setting(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the bundle at OUT")
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("checkpoint", help="what the bundle was exported from: directory or hub id")
    parser.add_argument("--json", type=Path, metavar="FILE", help=_EVERY_FIGURE)
    text = "code to verify on (default: argparse.py of this Python)"
    parser.add_argument("--text", type=Path, metavar="FILE", help=text)
    parser.add_argument("--max-length", type=int, metavar="N", help="compare no more than N tokens")
    parser.add_argument(
        "--kernels",
        choices=("on", "off"),
        default="off",
        help="on: compare the graph for sc2onnx-kernels instead, and record nothing (default: off)",
    )
    device = "cuda: compare what a GPU computes instead, and record nothing (default: cpu)"
    parser.add_argument("--device", default="cpu", help=device)
    greedy = "greedy tokens to compare (default: 256)"
    parser.add_argument("--greedy", type=int, default=256, metavar="N", help=greedy)


def _evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle")
    files = "code to evaluate on, best what the model was not trained on"
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help=files)
    against = "a bundle, or a checkpoint in torch (directory or hub id)"
    parser.add_argument("--against", metavar="REFERENCE", help=against)
    also(parser, "another bundle on the same tokens (repeatable)")
    length = "tokens of a window (default: 1024, or the context if that is less)"
    parser.add_argument("--length", type=int, metavar="N", help=length)
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=16_384,
        metavar="N",
        help="score no more than N, shared by the files (default: 16384)",
    )
    spans = "fill in N spans of the files as well (default: 0)"
    parser.add_argument("--infill", type=int, default=0, metavar="N", help=spans)
    order = "with --infill: what comes first, prefix or suffix (default: psm)"
    parser.add_argument("--order", choices=ORDERS, default="psm", help=order)
    parser.add_argument("--seed", type=int, default=0, help="which spans (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help=_EVERY_FIGURE)
    picture = "draw quality over size: .png, .svg or .pdf"
    parser.add_argument("--plot", type=Path, metavar="FILE", help=picture)
    processor_options(parser)


def _bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle")
    also(parser, "another bundle, in turns with it (repeatable)")
    bench_options(parser)
    device = "cpu, cuda or cuda:1, the second GPU (default: cpu)"
    parser.add_argument("--device", default="cpu", help=device)


def _generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", help="directory or hub id")
    prompt = "the prompt; '-' or nothing reads standard input"
    parser.add_argument("prompt", nargs="?", help=prompt)
    parser.add_argument("--file", type=Path, help="read the prompt from a file")
    parser.add_argument("--echo", action="store_true", help="print the prompt first")
    samples = "with --json: so many samples, as a list"
    parser.add_argument("--n", type=int, metavar="N", help=samples)
    parser.add_argument(
        "--special-tokens",
        choices=("parse", "text"),
        default="parse",
        help="whether <fim_prefix> and its like in the prompt are special tokens, or text (default: parse)",
    )
    generation_options(parser)


def _infill(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", help="directory or hub id")
    parser.add_argument("file", type=Path)
    parser.add_argument("--line", type=int, required=True, help="line of the cursor, from 1")
    column = "column of the cursor, from 1: 1 is before the first character"
    parser.add_argument("--column", type=int, required=True, help=column)
    parser.add_argument("--path", help="path of the file in its repository, as context")
    parser.add_argument("--repo", help="name of the repository, as context")
    parser.add_argument(
        "--context",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="another file of the repository (repeatable)",
    )
    parser.add_argument("--order", choices=ORDERS, default="psm", help=_ORDER)
    tokens = "the most tokens of the prompt (default: as many as the model's context takes)"
    parser.add_argument("--prompt-tokens", type=int, metavar="N", help=tokens)
    generation_options(parser)


def _info(parser: argparse.ArgumentParser) -> None:
    bundle = "a bundle, or with --plan a checkpoint: directory or hub id"
    parser.add_argument("bundle", nargs="?", help=bundle)
    plan = "before any work: size, memory and disk of every precision"
    parser.add_argument("--plan", action="store_true", help=plan)
    shape = "with --plan: a published StarCoder2 instead of a checkpoint"
    parser.add_argument("--shape", choices=SHAPES, help=shape)
    parser.add_argument("--revision", help=BRANCH)
    allow_setting(parser)
    context = "memory at so many tokens (default: the model's context; with --plan: 1k, 4k, 16k)"
    parser.add_argument("--context", type=int, metavar="N", help=context)
    parser.add_argument("--json", action="store_true")


def _warm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", help="directory or hub id")
    parser.add_argument("--revision", help=BRANCH)


def _push(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("repo", help="OWNER/NAME, made if there is none")
    private = "where the repository is made, for its owner only"
    parser.add_argument("--private", action="store_true", default=None, help=private)
    parser.add_argument("--revision", help="another branch than main, made if there is none")
    parser.add_argument("--message", help="of the commit")
    parser.add_argument("--json", action="store_true")


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true")


_COMMANDS: Final[dict[str, tuple[Callable[[argparse.ArgumentParser], None], str]]] = {
    "export": (_export, "turn a checkpoint into a bundle"),
    "verify": (_verify, "compare a bundle with torch and record the outcome in it"),
    "evaluate": (
        _evaluate,
        "how well bundles predict and infill code, and how far they are from a reference",
    ),
    "bench": (
        _bench,
        "how fast bundles are: load, first token, prefill, decode over context, memory",
    ),
    "batch": (batch_options, "complete, infill, score or evaluate the rows of files, resumable"),
    "generate": (_generate, "continue a prompt"),
    "infill": (_infill, "complete at a cursor in a file"),
    "serve": (serve, "answer editors and SDKs over HTTP: OpenAI's, llama.cpp's, Ollama's, Mistral's completions"),
    "route": (route, "pass requests on to servers, each file's to the one that has its cache"),
    "lsp": (lsp, "complete in editors over the language server protocol"),
    "info": (
        _info,
        "what a bundle is and the memory it needs; --plan: what exporting a checkpoint would take",
    ),
    "warm": (
        _warm,
        "keep a quantised bundle's weights as sc2onnx-kernels reads them, so that it starts fast",
    ),
    "push": (_push, "put a bundle on the Hugging Face hub, with its model card"),
    "doctor": (_doctor, "what works on this machine, and what is missing"),
}
"""Command -> what adds its arguments, and what it is for."""
