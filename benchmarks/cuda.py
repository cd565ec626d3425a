"""Bundles on a GPU beside transformers: decode over context, prefill, a batch; against
what the card's memory gives.

    python benchmarks/cuda.py CHECKPOINT --bundles FP16 INT4 [--save FILE]

CHECKPOINT: a directory, such as ``benchmarks/make_checkpoint.py 3b OUT`` makes; the bundles are
exported from it with ``--target cuda``. All take turns in one process, so the card must hold them
together. transformers runs in fp16, eager and compiled with a static cache. Where the card is,
there may be no network: sc2onnx needs onnxruntime-gpu and what pip's nvidia packages bring, or
torch's own copies of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

import sc2onnx
from peers import Setting, torch_cuda
from sc2onnx.bench import Settings, bench_engines
from sc2onnx.bench.depth import placed
from sc2onnx.bench.engine import bundle_opener
from sc2onnx.bench.table import lines
from sc2onnx.errors import Sc2onnxError
from sc2onnx.runtime.engine.seats import Run
from sc2onnx.runtime.opening.bundle import open_named

BATCHES = (1, 4, 8, 32)


def main() -> None:
    """Parse, measure, print."""
    options = _parse()
    try:
        bundles = open_named(options.bundles)
        settings = Settings(
            tuple(options.contexts),
            (1, 4, 16),
            tuple(options.prefill),
            options.repeat,
            1,
            device=options.device,
        )
    except (Sc2onnxError, OSError, ValueError) as error:
        sys.exit(f"cuda.py: {error}")
    facts = next(iter(bundles.values())).manifest.model
    setting = Setting(options.checkpoint, Path.cwd(), max(*options.contexts, *options.prefill), 1)
    with redirect_stdout(sys.stderr):
        openers = {
            name: bundle_opener(opened.directory, 1, device=options.device)
            for name, opened in bundles.items()
        }
        openers |= {
            contender.name: contender.open
            for how, contender in torch_cuda.contenders(setting).items()
            if how in options.torch
        }
        report = bench_engines(
            openers,
            settings,
            facts.context_length,
            facts.vocab_size,
            lambda line: print(line, flush=True),
        )
    print("\n".join(lines(report)), flush=True)
    with redirect_stdout(sys.stderr):
        batches = {name: batched(opened.directory, options) for name, opened in bundles.items()}
    for name, rates in batches.items():
        shown = ", ".join(
            f"{rows} rows {rate:.0f} ({rate / rates[1]:.1f}x)" for rows, rate in rates.items()
        )
        print(
            f"\n{name}, tokens per second together at {options.batch_context:,} "
            f"tokens of context: {shown}"
        )
    if options.save:
        figures = json.dumps({**report.figures(), "batches": batches}, indent=2)
        options.save.write_text(f"{figures}\n")


def batched(bundle: Path, options: argparse.Namespace) -> dict[int, float]:
    """Tokens per second by the number of rows that decode together: medians of
    ``--repeat`` rounds of 32 steps.
    """
    model, found = sc2onnx.load(bundle, device=options.device, prefix_memory=0), dict[int, float]()
    for rows in BATCHES:
        sequences = [placed(model, options.batch_context) for _ in range(rows)]
        seats, token, seconds = model.engine.seats, np.ones(1, dtype=np.int64), list[float]()
        for _ in range(options.repeat + 1):  # the first one captures
            began = time.perf_counter()
            with model.engine.exclusive():
                for _ in range(32):
                    seats.forward(
                        [Run(each.seat, token, 1) for each in sequences], ids=seats.chooses
                    )
            seconds.append(time.perf_counter() - began)
            for each in sequences:
                each.rewind(32)
        found[rows] = 32 * rows / statistics.median(seconds[1:])
        for each in sequences:
            each.close()
    return found


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--bundles", type=Path, nargs="+", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--contexts", type=int, nargs="+", default=[64, 1024, 4096, 8192, 16384], metavar="N"
    )
    parser.add_argument("--prefill", type=int, nargs="+", default=[512, 4096], metavar="N")
    parser.add_argument(
        "--batch-context",
        type=int,
        default=1024,
        metavar="N",
        help="tokens that each row of a batch has before (default: 1024)",
    )
    parser.add_argument("--repeat", type=int, default=5)
    torch = "what of transformers takes part (default: all of it)"
    parser.add_argument(
        "--torch",
        nargs="*",
        choices=torch_cuda.NAMES,
        default=torch_cuda.NAMES,
        metavar="NAME",
        help=torch,
    )
    parser.add_argument("--save", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
