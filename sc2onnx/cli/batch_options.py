"""What ``batch`` accepts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from sc2onnx.cli.common_options import BRANCH, device_options, drawing_options

TASKS: Final = ("complete", "infill", "score", "evaluate")


def batch_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``batch``."""
    parser.add_argument("bundle", help="directory or hub id")
    files = "rows: .jsonl, .jsonl.gz or .parquet, or a directory of such"
    parser.add_argument("inputs", type=Path, nargs="+", metavar="IN", help=files)
    output = "the file to make, .jsonl or .parquet; OUT.job beside it says how far that is"
    parser.add_argument("--output", type=Path, required=True, metavar="OUT", help=output)
    what = "what is done with each row (default: complete)"
    parser.add_argument("--task", choices=TASKS, default="complete", help=what)
    field = "the input's name of a field, as text=content; id= for no ids (repeatable)"
    parser.add_argument("--field", action="append", default=[], metavar="NAME=FIELD", help=field)
    restart = "begin anew what was begun, whatever it was"
    parser.add_argument("--restart", action="store_true", help=restart)
    fast = "end at the first row that cannot be computed"
    parser.add_argument("--fail-fast", action="store_true", help=fast)
    parser.add_argument("--quiet", action="store_true", help="tell nothing of the progress")
    parser.add_argument("--revision", help=BRANCH)
    _task_options(parser)
    batch = "rows that are computed together (default: 8)"
    parser.add_argument("--max-batch", type=int, default=8, metavar="N", help=batch)
    memory = "bytes of finished rows' caches to keep, for rows that begin alike (default: two of full length)"
    parser.add_argument("--prefix-memory", type=int, metavar="BYTES", help=memory)
    device_options(parser)


def _task_options(parser: argparse.ArgumentParser) -> None:
    """Those that some tasks have."""
    drawing_options(parser)
    parser.set_defaults(seed=0)
    logprobs = "complete, infill, score: ids and log probabilities of the tokens as well"
    parser.add_argument("--logprobs", action="store_true", help=logprobs)
    special = "complete: whether <fim_prefix> and its like are special tokens, or text (default: parse)"
    parser.add_argument("--special-tokens", choices=("parse", "text"), default="parse", help=special)
    order = "infill, evaluate: what comes first, prefix or suffix (default: psm)"
    parser.add_argument("--order", choices=("psm", "spm"), default="psm", help=order)
    tokens = "infill: the most tokens of a prompt (default: as many as the model's context takes)"
    parser.add_argument("--prompt-tokens", type=int, metavar="N", help=tokens)
    length = "evaluate: tokens of a window (default: 1024, or the context if that is less)"
    parser.add_argument("--length", type=int, metavar="N", help=length)
    most = "evaluate: score no more than N of each row (default: 16384)"
    parser.add_argument("--max-tokens", type=int, default=16_384, metavar="N", help=most)
    spans = "evaluate: fill in N spans of each row as well (default: 0)"
    parser.add_argument("--infill", type=int, default=0, metavar="N", help=spans)
