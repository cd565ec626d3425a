"""Tries to break sc2onnx: kills, full disks, damaged and hostile files, races.
Says what was tried, what held, and how to repeat the rest.

    python benchmarks/faults.py [--seed S] [--count N] [--kinds KIND...] [--only NUMBER]
        [--keep DIR] [--save FILE]

What must hold: no wrong tokens without an error, no exception that is not ours, no hang beyond 10
s, nothing lost or half written. A trial depends on its kind, the seed and its number alone, so that
``--kinds KIND --only NUMBER`` repeats it; races and kills at a moment also depend on the machine.
Exit status 1 if anything failed. Needs the ``cpu`` and ``export`` extras, and ``verify`` for
``kill-record``; small file systems (``full-disk``) need root.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from queue import SimpleQueue
from threading import local

from fault_kinds import KINDS
from fault_kinds.material import Material, prepare
from fault_kinds.worker import Outcome, Worker

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, try, print."""
    options = parsed(arguments)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sc2onnx-faults-") as directory:
        material = prepare(options.checkpoint, Path(directory) / "material")
        outcomes = list(run(material, plan(options), options.seed, options.jobs, options.keep))
    print(
        f"\n{table(outcomes)}\n{len(outcomes)} trials in {time.monotonic() - began:.0f} "
        f"s, seed {options.seed}"
    )
    if options.save is not None:
        told = json.dumps([vars(outcome) for outcome in outcomes], indent=2)
        options.save.write_text(f"{told}\n")
    return 0 if all(outcome.held for outcome in outcomes) else 1


def plan(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Kind and number of every trial: kinds in turn, each as often as its share says."""
    if options.only is not None:
        return [(kind, options.only) for kind in options.kinds]
    shares = [
        kind
        for turn in range(max(KINDS[kind].share for kind in options.kinds))
        for kind in options.kinds
        if KINDS[kind].share > turn
    ]
    numbers = dict.fromkeys(options.kinds, 0)
    planned = []
    for kind in islice(cycle(shares), options.count):
        planned.append((kind, numbers[kind]))
        numbers[kind] += 1
    return planned


def run(
    material: Material,
    planned: Sequence[tuple[str, int]],
    seed: int,
    jobs: int,
    keep: Path | None = None,
) -> Iterator[Outcome]:
    """Do the trials, and tell of every failure as it comes."""
    own, started = local(), SimpleQueue[Worker]()

    def one(item: tuple[str, int]) -> Outcome:
        kind, number = item
        attribute = "forking" if KINDS[kind].forks else "warm"
        if not hasattr(own, attribute):
            worker = Worker(material, keep)
            setattr(own, attribute, worker)
            started.put(worker)
        outcome: Outcome = getattr(own, attribute).do(kind, seed, number)
        return outcome

    try:
        with ThreadPoolExecutor(jobs) as pool:
            for outcome in pool.map(one, planned):
                if not outcome.held:
                    print(
                        f"FAILED {outcome.kind} {outcome.number}: {outcome.note}\n  "
                        f"{repeat(outcome, seed)}",
                        flush=True,
                    )
                yield outcome
    finally:
        while not started.empty():
            started.get().stop()


def repeat(outcome: Outcome, seed: int) -> str:
    """The command that does one trial again."""
    return shlex.join(
        [
            "python",
            "benchmarks/faults.py",
            "--seed",
            str(seed),
            "--kinds",
            outcome.kind,
            "--only",
            str(outcome.number),
        ]
    )


def table(outcomes: Sequence[Outcome]) -> str:
    """Tried and held, by kind."""
    lines = ["| kind | tried | held |", "|---|---|---|"]
    for kind in KINDS:
        found = [outcome.held for outcome in outcomes if outcome.kind == kind]
        if found:
            lines.append(f"| {kind} | {len(found)} | {sum(found)} |")
    return "\n".join(lines)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=ROOT / "examples" / "starcoder2-mini",
        help="a small one (default: the mini)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--count", type=int, default=100, metavar="N", help="trials in all (default: 100)"
    )
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=list(KINDS),
        default=list(KINDS),
        metavar="KIND",
        help=", ".join(KINDS),
    )
    parser.add_argument(
        "--only", type=int, metavar="NUMBER", help="the trial of this number alone, of each kind"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(4, os.cpu_count() or 1),
        metavar="N",
        help="trials at once (default: processors, at most 4)",
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the files of failed trials there"
    )
    parser.add_argument("--save", type=Path, metavar="FILE", help="write every outcome to a file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
