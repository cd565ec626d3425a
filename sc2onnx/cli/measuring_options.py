"""What the commands that measure bundles accept."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from sc2onnx.cli import common_options as common

SUITE: Final = ("lines", "expressions", "blocks", "programs")
"""``sc2onnx.evaluate.suite.TASKS``, whose room needs onnxruntime."""


def verify(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``verify``."""
    parser.add_argument("bundle", type=Path, help="a bundle: directory")
    source = "a checkpoint: directory or hub id; what the bundle was exported from"
    parser.add_argument("checkpoint", help=source)
    text = "code to verify on (default: argparse.py of this Python)"
    parser.add_argument("--text", type=Path, metavar="FILE", help=text)
    past = "a 3B model past its window takes hours (default: twice the window and 3)"
    common.length(parser, past)
    greedy = "compare so many greedy tokens (default: 256)"
    parser.add_argument("--greedy", type=int, default=256, metavar="N", help=greedy)
    common.adapter(parser, "it was merged at export, torch computes with it through peft")
    common.figures_options(parser)
    common.device(parser)
    common.grouped(parser, "device").add_argument(
        "--kernels",
        choices=("on", "off"),
        default="off",
        help="run int8 and int4 on sc2onnx-kernels; on: the outcome is not kept (default: off)",
    )


def evaluate(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``evaluate``."""
    parser.add_argument("bundle", help=common.BUNDLE)
    files = "code to evaluate on, best what the model was not trained on"
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help=files)
    against = "a bundle, or a checkpoint in torch (directory or hub id), to compare with"
    parser.add_argument("--against", metavar="REFERENCE", help=against)
    common.also(parser, "on the same tokens")
    common.adapter(
        parser,
        "torch computes --against with it, as verify does; as `sc2onnx adapter convert` makes it: "
        "bundles run with it",
    )
    common.scoring_options(parser, "of the files together")
    _suite(parser)
    common.order(parser)
    common.seed_option(parser, 0)
    common.figures_options(parser, "quality over size")
    common.processor_options(parser)


def _suite(parser: argparse.ArgumentParser) -> None:
    group = common.grouped(parser, "suite")
    tasks = (
        "tasks with a right answer; holes cut out of the files (default: lines expressions "
        "blocks), or programs: CAUTION, EXECUTES WHAT THE MODEL WRITES, in a bounded process"
    )
    group.add_argument("--suite", nargs="*", choices=SUITE, help=tasks)
    count = "ask so many of each task (default: 100)"
    group.add_argument("--questions", type=int, default=100, metavar="N", help=count)
    url = "a server to ask; llama.cpp's, say, which takes part in the suite (repeatable)"
    group.add_argument("--server", action="append", default=[], metavar="URL", help=url)


def bench(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``bench``."""
    parser.add_argument("bundle", help=common.BUNDLE)
    common.also(parser, "in turns with it")
    common.bench_options(parser)
    common.device(parser)
