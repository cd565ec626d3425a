"""Options that several commands have, or that a benchmark outside the package has as well."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

KERNELS: Final = ("auto", "on", "off")
CACHE_TYPES: Final = ("auto", "int8", "float32")
"""``sc2onnx.runtime.ort.kernels.Use`` and ``CacheType``, whose room needs onnxruntime."""

BRANCH: Final = "of a hub id: branch, tag or commit"


def also(parser: argparse.ArgumentParser, summary: str) -> None:
    """Add ``--also``, for other bundles."""
    parser.add_argument("--also", action="append", default=[], metavar="BUNDLE", help=summary)


def allow_setting(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-setting``, which can be repeated."""
    parser.add_argument(
        "--allow-setting",
        action="append",
        default=[],
        metavar="KEY",
        help="vouch that a setting of config.json that is unknown here changes nothing (repeatable)",
    )


def bench_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench``, which ``benchmarks/speed.py`` takes as well."""
    contexts = "decode at so many tokens (default: 64 1024 4096 8192 16384)"
    parser.add_argument("--contexts", type=int, nargs="+", metavar="N", help=contexts)
    parser.add_argument(
        "--steps",
        type=int,
        nargs="*",
        default=[1, 2, 4, 8, 16],
        metavar="N",
        help="steps of so many tokens (default: 1 2 4 8 16)",
    )
    prefill = "prompts of so many tokens (default: 512)"
    parser.add_argument("--prefill", type=int, nargs="*", metavar="N", help=prefill)
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="rounds (default: 5)")
    real = "compute up to each context, for minutes, instead of placing the sequence"
    parser.add_argument("--real-prefill", action="store_true", help=real)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round to a file")
    picture = "draw decoding over context: .png, .svg or .pdf"
    parser.add_argument("--plot", type=Path, metavar="FILE", help=picture)
    processor_options(parser)


def drawing_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how tokens are drawn, and where a text ends."""
    parser.add_argument("--max-new-tokens", type=int, default=128, metavar="N")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (the default)")
    parser.add_argument("--top-k", type=int, default=0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--min-p", type=float, default=0.0)
    parser.add_argument("--repetition-penalty", type=float, default=1.0)
    parser.add_argument("--seed", type=int)
    stop = "end before this text (repeatable)"
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help=stop)
    ends = "end with the cursor's line, or with its block, before code that is there already"
    parser.add_argument("--ends", choices=("line", "block"), help=ends)
    heal = "where the prompt stops inside a word, choose the tokens of its end again"
    parser.add_argument("--heal", action="store_true", help=heal)


def generation_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that generate text."""
    parser.add_argument("--revision", help=BRANCH)
    drawing_options(parser)
    logprobs = "with --json: log probability of each token"
    parser.add_argument("--logprobs", action="store_true", help=logprobs)
    whole = "print one JSON object instead of streaming"
    parser.add_argument("--json", action="store_true", help=whole)
    device_options(parser)


def device_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say on what a model runs, and whether it guesses ahead."""
    parser.add_argument(
        "--speculate",
        action=argparse.BooleanOptionalAction,
        help="compute ahead what the text suggests (default: where that cannot change a token)",
    )
    device = "cpu, cuda, cuda:1 (the second GPU) or auto (default: cpu)"
    parser.add_argument("--device", default="cpu", help=device)
    devices = "one for each stage of a bundle that is cut, instead of --device"
    parser.add_argument("--device-map", nargs="+", metavar="DEVICE", help=devices)
    processor_options(parser)


def processor_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what computes, and how."""
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--kernels",
        choices=KERNELS,
        default="auto",
        help="whether int8 and int4 run on sc2onnx-kernels (default: where that is installed)",
    )
    kept = "what the kernels keep of keys and values (default: int8)"
    parser.add_argument("--cache-type", choices=CACHE_TYPES, default="auto", help=kept)
