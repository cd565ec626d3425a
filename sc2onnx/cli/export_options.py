"""What the commands about checkpoints accept."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from sc2onnx.cli import common_options as common

SHAPES: Final = ("3b", "7b", "15b")
"""Keys of ``sc2onnx.export.shapes.SHAPES``, which needs the exporter's packages."""

PRECISION: Final = "int8"
"""What an export makes if nothing else is asked for: a minute's work, and as good as fp32."""

CHECKPOINT: Final = "a checkpoint: directory, or hub id such as bigcode/starcoder2-3b"


def export(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``export``."""
    parser.add_argument("checkpoint", help=CHECKPOINT)
    parser.add_argument("out", type=Path, help="the directory to make")
    of_gpu = "with --target cuda int8, int4, fp16 or bf16"
    precision = f"int8 (the default), int4, int4-fast, fp32, or a recipe in a .json file; {of_gpu}"
    parser.add_argument("--precision", default=PRECISION, metavar="NAME", help=precision)
    others = "portable (standard operators only), genai (onnxruntime-genai) or optimum"
    target = f"what it is to run on: cpu (the default), cuda, {others}"
    parser.add_argument("--target", default="cpu", metavar="NAME", help=target)
    stages = "cut the layers into N graphs, for several devices (default: 1)"
    parser.add_argument("--stages", type=int, default=1, metavar="N", help=stages)
    common.revision(parser)
    common.allow_setting(parser)
    _adapters(parser)
    _calibration(parser)
    output = common.grouped(parser, "output")
    output.add_argument(
        "--overwrite", action="store_true", help="replace what is at OUT; a bundle alone"
    )
    common.json_option(parser)
    common.quiet(parser)


def _adapters(parser: argparse.ArgumentParser) -> None:
    common.adapter(parser, "merge it into the weights, as peft does")
    # apart from --adapter: a colon may be part of a path, and so may what follows it
    scales = "multiply the change of each adapter by so much, in order (default: 1 for each)"
    group = common.grouped(parser, "adapters")
    group.add_argument("--weights", type=float, nargs="+", metavar="W", help=scales)


def _calibration(parser: argparse.ArgumentParser) -> None:
    group = common.grouped(parser, "calibration")
    texts = "round with the statistics of these texts (default: code that sc2onnx ships)"
    group.add_argument("--calibration", type=Path, nargs="+", metavar="FILE", help=texts)
    _calibration_tokens(group)
    cost = "a minute instead of an hour or two, at 3.6 times the divergence"
    plain = f"round to the nearest, and lift nothing: {cost}"
    group.add_argument("--no-calibration", action="store_true", help=plain)


def _calibration_tokens(group: argparse._ActionsContainer) -> None:
    tokens = "how much of the text to use (default: 57,344); less takes less time and memory"
    group.add_argument("--calibration-tokens", type=int, metavar="N", help=tokens)


def plan(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``plan``."""
    parser.add_argument("checkpoint", nargs="?", help=CHECKPOINT)
    shape = "a published StarCoder2 instead of a checkpoint"
    parser.add_argument("--shape", choices=SHAPES, help=shape)
    common.context(parser, "memory to run there (default: 1024 4096 16384)", nargs="+")
    common.revision(parser)
    common.allow_setting(parser)
    _calibration_tokens(parser)
    common.json_option(parser)
