"""Measures one bundle: load time, seconds of a step by its number of tokens and by depth, and memory.

    python benchmarks/steps.py BUNDLE [--depths 64 1024 4096] [--repeat 5]

Medians. Tokens are random; what a step costs does not depend on them. The file system cache decides the first load.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import sc2onnx
from sc2onnx.runtime.sequence import TokenSequence

STEPS = (1, 4, 16, 64, 256)


def seconds(sequence: TokenSequence, step: int, repeat: int, vocab: int, random: np.random.Generator) -> float:
    """Median time of appending ``step`` tokens, which are dropped again each time."""
    times = []
    for _ in range(repeat):
        tokens = random.integers(0, vocab, step)
        began = time.perf_counter()
        sequence.append(tokens, logits="last")
        times.append(time.perf_counter() - began)
        sequence.rewind(step)
    return float(np.median(times))


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--depths", type=int, nargs="+", default=[64, 1024, 4096])
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()

    for name in ("first load", "second load"):
        began = time.perf_counter()
        model = sc2onnx.load(options.bundle)
        print(f"{name}: {time.perf_counter() - began:.2f} s")
    vocab, random = model.manifest.model.vocab_size, np.random.default_rng(0)
    with model.sequence() as sequence:
        sequence.append([0], logits="last")  # maps the weights
        for depth in sorted(options.depths):
            began, grown = time.perf_counter(), depth - sequence.length
            sequence.append(random.integers(0, vocab, grown), logits=None)
            rate = grown / (time.perf_counter() - began)
            costs = (f"{step} tokens {seconds(sequence, step, options.repeat if step < 64 else 2, vocab, random):.3f} s" for step in STEPS)
            print(f"depth {depth}: prefilled at {rate:.1f} tokens/s; steps of {', '.join(costs)}", flush=True)
        footprint = model.memory_footprint()
    print(f"weights {footprint.weights / 1e9:.2f} GB, cache {footprint.cache / 1e9:.3f} GB")
    if footprint.resident_private is not None and footprint.resident_weights is not None:
        print(f"resident: weights {footprint.resident_weights / 1e9:.2f} GB (mapped), private {footprint.resident_private / 1e9:.3f} GB")


if __name__ == "__main__":
    main()
