"""Bundles in other runtimes beside ours: the same greedy tokens? how fast?
Writes the table into docs/runtimes.md.

    make interop
    python benchmarks/interop.py --checkpoint CHECKPOINT --precisions int4 --lengths 64 \
        --only C++ genai OpenVINO

On the mini checkpoint the times are what a runtime takes around its kernels, not what a large
model's weights take; the second command is for these.
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

import sc2onnx
from installed import BUILD, EXAMPLES, ROOT, MissingError
from runtimes import INTEGERS, RUNTIMES, Outcome, Runtime, play
from sc2onnx.export import Calibration, export
from sc2onnx.runtime.ort.kernels import Missing, look
from sc2onnx.runtime.ort.library import ort

MINI = EXAMPLES / "starcoder2-mini"
COUNT = 64
LENGTHS = (40, 700)
"""Tokens of the prompts: the window of the mini checkpoint is 256."""

PAGE = ROOT / "docs" / "runtimes.md"
BEGIN, END = "<!-- make interop -->", "<!-- end of make interop -->"
HEAD = (
    "runtime",
    "version",
    "precision",
    "same 64 greedy tokens",
    "and past the window",
    "ms per token",
    "times as fast as ours",
)
ELSEWHERE = {
    "onnxruntime-genai on CUDA, fp16 and bf16": "no GPU; the graph is verified on the CPU",
    "onnxruntime-web on WebGPU": "no GPU",
    "onnxruntime in Java and C#": "Maven and NuGet could not be reached",
}


class Ours:
    """Our runtime on a bundle for the CPU, and its greedy tokens after prompts of these lengths.

    ``kernels``: on ours; else on ONNX Runtime's, which others have as well and round as they do.
    """

    def __init__(
        self, bundle: Path, lengths: Sequence[int], threads: int, *, kernels: bool = False
    ) -> None:
        self.model = sc2onnx.load(
            bundle, threads=threads, speculate=False, kernels="on" if kernels else "off"
        )
        text = Path(argparse.__file__).read_text(encoding="utf-8")
        self.ids = self.model.codec.encode(text, special=False)
        self.prompts = [self.ids[:length] for length in lengths]
        self.greedy = [self.tokens(prompt)[0] for prompt in self.prompts]

    def tokens(self, prompt: Sequence[int]) -> tuple[list[int], float]:
        """Greedy tokens and seconds a token."""
        self.model.forget()
        found, times = [], []
        for token in self.model.generate_tokens(prompt, max_new_tokens=COUNT, stop_tokens=()):
            times.append(time.perf_counter())
            found.append(token.id)
        return found, statistics.median(after - before for before, after in pairwise(times))


def bundle_for(
    checkpoint: Path, target: str, precision: str, directory: Path = BUILD / "bundles"
) -> Path:
    """The checkpoint for this target in this precision, exported anew;
    integers are not calibrated.
    """
    out = directory / f"{target}-{precision}"
    out.parent.mkdir(parents=True, exist_ok=True)
    calibration = Calibration(wanted=False) if precision.startswith("int4") else None
    export(
        checkpoint, out, target=target, precision=precision, calibration=calibration, overwrite=True
    )
    return out


def loaded_by(runtime: Runtime, checkpoint: Path, precision: str) -> Path:
    """What it is to load."""
    if runtime.convert is None:
        return bundle_for(checkpoint, runtime.target, precision)
    return runtime.convert(checkpoint, BUILD / "bundles" / "converted")


def same(found: Sequence[int], expected: Sequence[int]) -> str:
    """``yes``, or how many are the same before they part."""
    alike = next(
        (
            index
            for index, pair in enumerate(zip(found, expected, strict=True))
            if pair[0] != pair[1]
        ),
        None,
    )
    return "yes" if alike is None else f"the first {alike}"


def ours_for(args: Namespace) -> dict[tuple[str, bool], Ours]:
    """Ours by precision, and by whether it runs on the kernels."""
    found = {}
    for precision in args.precisions:
        bundle = bundle_for(args.checkpoint, "cpu", precision)
        found[precision, False] = Ours(bundle, args.lengths, args.threads)
        if precision in INTEGERS and not isinstance(look(), Missing):
            found[precision, True] = Ours(bundle, args.lengths, args.threads, kernels=True)
    return found


def rows_of(
    runtime: Runtime, ours: dict[tuple[str, bool], Ours], args: Namespace
) -> list[list[str]]:
    """A row for each precision; a single one that says why, where it cannot be had."""
    try:
        command = runtime.prepare()
        beside = {
            name: ours[name, runtime.kernels]
            for name in runtime.precisions
            if (name, runtime.kernels) in ours
        }
        return [_row(runtime, command, name, one, args) for name, one in beside.items()]
    except MissingError as reason:
        return [[runtime.name, "", "", f"not run: {reason}", "", "", ""]]


def _row(
    runtime: Runtime, command: list[str], precision: str, ours: Ours, args: Namespace
) -> list[str]:
    bundle = loaded_by(runtime, args.checkpoint, precision)
    first, *others = ours.prompts
    outcomes: list[Outcome] = []
    ratios: list[float] = []
    for _ in range(args.rounds):  # in turns
        seconds = ours.tokens(first)[1]
        outcomes.append(play(command, bundle, first, COUNT, args.threads))
        ratios.append(seconds / outcomes[-1].seconds_per_token)
    found = [
        outcomes[-1].tokens,
        *(play(command, bundle, prompt, COUNT, args.threads).tokens for prompt in others),
    ]
    alike = [same(tokens, expected) for tokens, expected in zip(found, ours.greedy, strict=True)]
    each = statistics.median(outcome.seconds_per_token for outcome in outcomes)
    return [
        runtime.name,
        outcomes[-1].version,
        precision,
        *alike,
        *[""] * (2 - len(alike)),
        f"{each * 1e3:.2f}",
        f"{statistics.median(ratios):.2f}",
    ]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The table."""
    lines = [HEAD, ["---"] * len(HEAD), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(page: Path, table: str) -> None:
    """Put the table between the marks."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


def parsed() -> Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--rounds",
        type=int,
        default=5,
        help="times that each is timed, in turns with ours (default: 5)",
    )
    parser.add_argument(
        "--only", nargs="*", default=[], help="runtimes whose name has one of these words"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=MINI,
        help="another than the mini checkpoint; the table is then printed only",
    )
    parser.add_argument("--precisions", nargs="+", default=["fp32", "int8", "int4"])
    parser.add_argument(
        "--lengths",
        type=int,
        nargs="+",
        default=LENGTHS,
        metavar="N",
        help="tokens of one prompt or two; the first is timed",
    )
    return parser.parse_args()


def main() -> None:
    """Run every runtime and write the table."""
    args = parsed()
    ours = ours_for(args)
    rows = []
    for (precision, kernels), one in ours.items():
        name = "sc2onnx (Python, onnxruntime)" + (", with the kernels" if kernels else "")
        seconds = one.tokens(one.prompts[0])[1]
        rows.append([name, ort.__version__, precision, "", "", f"{seconds * 1e3:.2f}", "1"])
    for runtime in RUNTIMES:
        if not args.only or any(word in runtime.name for word in args.only):
            found = rows_of(runtime, ours, args)
            rows += found
            print(*(f"| {' | '.join(row)} |" for row in found), sep="\n", flush=True)
    if args.only or args.checkpoint != MINI:
        print(markdown(rows))
        return
    rows += [[name, "", "", f"not run: {why}", "", "", ""] for name, why in ELSEWHERE.items()]
    (BUILD / "interop.json").write_text(json.dumps(rows, indent=2))
    write(PAGE, markdown(rows))


if __name__ == "__main__":
    main()
