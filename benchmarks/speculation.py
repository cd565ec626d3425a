"""What speculation is worth: decoding with drafts and without, task by task, in turns.

    # the continuation is what the model says: are the tokens the same, and how fast?
    python benchmarks/speculation.py BUNDLE
    # it is what was really written: for weights that say nothing sensible
    python benchmarks/speculation.py BUNDLE --forced

Forced, the sampler gives the task's own text whatever the logits are; drafts, steps and their costs
are real, and the prompt is placed, not computed (``sc2onnx.bench.depth``). Times are of decoding
alone, from the first token on, medians of ``--repeat`` turns; each task is the time without drafts
over the time with them, and a kind is the geometric mean of its tasks. The tasks:
benchmarks/tasks/README.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

import sc2onnx
from sc2onnx.bench.depth import placed
from sc2onnx.errors import Sc2onnxError
from sc2onnx.runtime.choose.parameters import SamplingParameters
from sc2onnx.runtime.choose.sampling import Sampler
from sc2onnx.runtime.engine.costs import FLAT, StepCosts
from sc2onnx.runtime.engine.lookup import Lookup, Memory
from sc2onnx.runtime.engine.row import Row
from sc2onnx.runtime.engine.speculate import Drafter
from sc2onnx.runtime.engine.streams import TokenStream
from sc2onnx.runtime.model import Model
from sc2onnx.runtime.options import GenerationRules

TASKS = Path(__file__).parent / "tasks" / "tasks.jsonl"


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt and what was really written after it, in tokens."""

    name: str
    kind: str
    repeats: bool
    prompt: list[int]
    continuation: list[int]


@dataclass(slots=True)
class Forced:
    """A sampler that knows the text."""

    text: Iterator[int]

    def draw(self, logits: npt.NDArray[np.float32]) -> int:
        """The next token, whatever the logits are."""
        return next(self.text)


@dataclass(slots=True)
class Turns:
    """Seconds of a task without and with drafts, in turns, the tokens of
    each, and how the drafts did.
    """

    plain: list[float] = field(default_factory=list)
    drafts: list[float] = field(default_factory=list)
    same: bool = True
    drafted: int = 0
    accepted: int = 0

    @property
    def speedup(self) -> float:
        """Time without over time with, the medians."""
        return statistics.median(self.plain) / statistics.median(self.drafts)


def read(path: Path, model: Model, longest: int) -> list[Task]:
    """The tasks; of long prompts the end that leaves room for ``longest``
    tokens in the model's context.
    """
    room = model.manifest.model.context_length - longest
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        raw = json.loads(line)
        prompt, continuation = (
            model.codec.encode(raw["prompt"]),
            model.codec.encode(raw["continuation"], special=False),
        )
        found.append(
            Task(raw["name"], raw["kind"], raw["repeats"], prompt[-room:], continuation[:longest])
        )
    return found


def decode(
    model: Model, task: Task, drafter: Drafter | None, forced: bool
) -> tuple[float, list[int]]:
    """Seconds from the first token on, and the tokens."""
    count = len(task.continuation)
    rules = GenerationRules(count, SamplingParameters(), (), frozenset(), False)
    sampler = (
        Forced(iter(task.continuation))
        if forced
        else Sampler(rules.sampling, np.array(task.prompt), model.manifest.model.vocab_size)
    )
    row = Row(
        np.array(task.prompt, dtype=np.int64),
        rules,
        sampler,
        model.manifest.model.context_length,
        drafter=drafter,
        gives="tokens",
    )
    if forced:
        row.seat = placed(model, len(task.prompt) - 1).seat
    with TokenStream(model.engine, row) as steps:
        given = [next(steps).id]
        began = time.perf_counter()
        given += [token.id for token in steps]
        return time.perf_counter() - began, given


def measure(
    model: Model, tasks: Sequence[Task], repeat: int, forced: bool, alone: bool
) -> list[tuple[Task, Turns]]:
    """Every task, without and with drafts in turns.
    ``alone``: it finds nothing in the texts of the tasks before.
    """
    costs = StepCosts(FLAT) if model.kernels else StepCosts()
    memory = None if alone else Memory()
    found = []
    for task in tasks:
        turns = Turns()
        for _ in range(repeat):
            seconds, expected = decode(model, task, None, forced)
            turns.plain.append(seconds)
            drafter = Drafter(Lookup.of(task.prompt, memory), costs)
            seconds, given = decode(model, task, drafter, forced)
            turns.drafts.append(seconds)
            turns.same &= given == expected
            turns.drafted, turns.accepted = drafter.drafted, drafter.accepted
        found.append((task, turns))
        print(f"| {task.name} | {task.kind} | {row(len(task.continuation), turns)} |", flush=True)
    known = sorted(costs.sizes())
    print(
        "\nmedian cost of a step, of a step of one token: "
        + ", ".join(f"{size}: {costs.seconds(size) / costs.seconds(1):.2f}" for size in known)
    )
    return found


def row(count: int, turns: Turns) -> str:
    """The figures of a task."""
    rate = turns.accepted / turns.drafted if turns.drafted else 0.0
    per_token = statistics.median(turns.plain) / (count - 1) * 1e3
    return (
        f"{per_token:.1f} | {turns.drafted} | {rate:.2f} | {turns.speedup:.2f} | "
        f"{'yes' if turns.same else 'NO'}"
    )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--forced", action="store_true", help="the text is the task's own")
    parser.add_argument(
        "--alone", action="store_true", help="look for drafts in the task's own text only"
    )
    parser.add_argument("--tasks", type=Path, default=TASKS)
    parser.add_argument(
        "--tokens",
        type=int,
        default=256,
        metavar="N",
        help="of each continuation, at most (default: 256)",
    )
    parser.add_argument("--repeat", type=int, default=1, help="turns (default: 1)")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    try:
        # nothing is packed in the background meanwhile
        model = sc2onnx.load(options.bundle, threads=options.threads, packed="off")
        tasks = read(options.tasks, model, options.tokens)
    except (Sc2onnxError, OSError) as error:
        sys.exit(f"speculation.py: {error}")
    print(
        "| task | kind | plain, ms a token | drafted | accepted | speedup | same tokens |\n"
        "|---|---|---|---|---|---|---|"
    )
    found = measure(model, tasks, options.repeat, options.forced, options.alone)
    for repeats, name in ((True, "repeats"), (False, "does not repeat")):
        ratios = [turns.speedup for task, turns in found if task.repeats == repeats]
        if ratios:
            mean, low, high = statistics.geometric_mean(ratios), min(ratios), max(ratios)
            print(
                f"text that {name}: {mean:.2f} times as fast ({low:.2f} - "
                f"{high:.2f}), {len(ratios)} tasks"
            )


if __name__ == "__main__":
    main()
