"""What ``batch`` accepts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from sc2onnx.cli import attribution_options
from sc2onnx.cli import common_options as common

TASKS: Final = ("complete", "infill", "score", "evaluate")


def batch_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``batch``."""
    parser.add_argument("bundle", help=common.BUNDLE)
    files = "rows: .jsonl, .jsonl.gz or .parquet, or a directory of such"
    parser.add_argument("inputs", type=Path, nargs="+", metavar="IN", help=files)
    what = "what is done with each row (default: complete)"
    parser.add_argument("--task", choices=TASKS, default="complete", help=what)
    field = "the input's name of a field, as text=content; id= for no ids (repeatable)"
    parser.add_argument("--field", action="append", default=[], metavar="NAME=FIELD", help=field)
    restart = "begin anew what was begun, whatever it was"
    parser.add_argument("--restart", action="store_true", help=restart)
    fast = "end at the first row that cannot be computed"
    parser.add_argument("--fail-fast", action="store_true", help=fast)
    common.revision(parser)
    _tasks(parser)
    output = common.grouped(parser, "output")
    made = "the file to make; .jsonl or .parquet, and OUT.job beside it says how far that is"
    output.add_argument("--output", type=Path, required=True, metavar="OUT", help=made)
    common.json_option(parser)
    common.quiet(parser)
    common.device_options(parser)
    common.max_batch(parser, 8)
    common.prefix_memory(parser, "two of full length")


def _tasks(parser: argparse.ArgumentParser) -> None:
    """Those that some tasks have; others leave them alone."""
    common.drawing_options(parser, seed=0)
    common.special_tokens(parser)
    common.run_adapter(parser)
    common.order(parser)
    common.prompt_tokens(parser)
    common.scoring_options(parser, "of each row")
    attribution_options.marking(parser)
