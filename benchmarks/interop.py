"""Bundles in other runtimes beside ours: the same greedy tokens? how fast? Writes the table into the README.

    make interop

On the mini checkpoint: the times are what a runtime takes around its kernels, not what a large model's weights take.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from argparse import Namespace
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import onnxruntime

import sc2onnx
from runtimes import BUILD, EXAMPLES, ROOT, RUNTIMES, MissingError, Outcome, Runtime, play
from sc2onnx.export import Calibration, export

CHECKPOINT = EXAMPLES / "starcoder2-mini"
COUNT = 64
SHORT, LONG = 40, 700
"""Tokens of the prompts: the window is 256."""

BEGIN, END = "<!-- make interop -->", "<!-- end of make interop -->"
HEAD = ("runtime", "version", "precision", "same 64 greedy tokens", "and past the window", "ms per token", "times as fast as ours")
ELSEWHERE = {
    "onnxruntime-genai on CUDA, fp16 and bf16": "there is no GPU here; the graph is verified on the CPU",
    "onnxruntime in Java and C#": "Maven and NuGet cannot be reached here",
}


class Ours:
    """Our runtime on a bundle for the CPU, and its greedy tokens."""

    def __init__(self, bundle: Path, threads: int) -> None:
        self.model = sc2onnx.load(bundle, threads=threads, speculate=False)
        ids = self.model.codec.encode(Path(argparse.__file__).read_text(encoding="utf-8"), special=False)
        self.prompts = (ids[:SHORT], ids[:LONG])
        self.greedy = [self.tokens(prompt)[0] for prompt in self.prompts]

    def tokens(self, prompt: Sequence[int]) -> tuple[list[int], float]:
        """Greedy tokens and seconds a token."""
        self.model.forget()
        found, times = [], []
        for token in self.model.generate_tokens(prompt, max_new_tokens=COUNT, stop_tokens=()):
            times.append(time.perf_counter())
            found.append(token.id)
        return found, statistics.median(after - before for before, after in pairwise(times))


def bundle_for(target: str, precision: str) -> Path:
    """The mini checkpoint for this target in this precision, exported anew."""
    out = BUILD / "bundles" / f"{target}-{precision}"
    out.parent.mkdir(parents=True, exist_ok=True)
    calibration = Calibration(wanted=False) if precision.startswith("int4") else None
    export(CHECKPOINT, out, target=target, precision=precision, calibration=calibration, overwrite=True)
    return out


def loaded_by(runtime: Runtime, precision: str) -> Path:
    """What it is to load."""
    if runtime.convert is None:
        return bundle_for(runtime.target, precision)
    out = BUILD / "bundles" / "converted"
    return runtime.convert(CHECKPOINT, out)


def same(found: Sequence[int], expected: Sequence[int]) -> str:
    """``yes``, or how many are the same before they part."""
    alike = next((index for index, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1]), None)
    return "yes" if alike is None else f"the first {alike}"


def rows_of(runtime: Runtime, ours: dict[str, Ours], threads: int, rounds: int) -> list[list[str]]:
    """A row for each precision; a single one that says why, where it cannot be had."""
    try:
        command = runtime.prepare()
        return [_row(runtime, command, precision, ours[precision], threads, rounds) for precision in runtime.precisions]
    except MissingError as reason:
        return [[runtime.name, "", "", f"not run: {reason}", "", "", ""]]


def _row(runtime: Runtime, command: list[str], precision: str, ours: Ours, threads: int, rounds: int) -> list[str]:
    bundle = loaded_by(runtime, precision)
    short, long = ours.prompts
    ratios: list[float] = []
    outcome: Outcome | None = None
    for _ in range(rounds):  # in turns
        seconds = ours.tokens(short)[1]
        outcome = play(command, bundle, short, COUNT, threads)
        ratios.append(seconds / outcome.seconds_per_token)
    assert outcome is not None
    past = play(command, bundle, long, COUNT, threads)
    alike = [same(tokens, expected) for tokens, expected in zip((outcome.tokens, past.tokens), ours.greedy, strict=True)]
    return [runtime.name, outcome.version, precision, *alike, f"{outcome.seconds_per_token * 1e3:.2f}", f"{statistics.median(ratios):.2f}"]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The table."""
    lines = [HEAD, ["---"] * len(HEAD), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(readme: Path, table: str) -> None:
    """Put the table between the marks."""
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


def parsed() -> Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="times that each is timed, in turns with ours (default: 5)")
    parser.add_argument("--only", nargs="*", default=[], help="runtimes whose name has one of these words")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    return parser.parse_args()


def main() -> None:
    """Run every runtime and write the table."""
    args = parsed()
    ours = {precision: Ours(bundle_for("cpu", precision), args.threads) for precision in ("fp32", "int8", "int4")}
    rows = [
        ["sc2onnx (Python, onnxruntime)", onnxruntime.__version__, name, "", "", f"{it.tokens(it.prompts[0])[1] * 1e3:.2f}", "1"]
        for name, it in ours.items()
    ]
    for runtime in RUNTIMES:
        if not args.only or any(word in runtime.name for word in args.only):
            rows += rows_of(runtime, ours, args.threads, args.rounds)
            print(markdown(rows[-len(runtime.precisions) :]).split("\n", 2)[2], flush=True)
    rows += [[name, "", "", f"not run: {why}", "", "", ""] for name, why in ELSEWHERE.items()]
    (BUILD / "interop.json").write_text(json.dumps(rows, indent=2))
    if not args.only:
        write(args.readme, markdown(rows))


if __name__ == "__main__":
    main()
