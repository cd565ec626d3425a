"""A batch job beside the engine alone: the same rows by ``sc2onnx batch`` and by a
loop that writes nothing.

    python benchmarks/batch.py BUNDLE --rows 500 --threads 2

Both are begun in turns, over one loaded model whose caches are dropped before each. Prompts
are pieces of this project's own code of up to ``--length`` tokens, the answers of 1 to
``--tokens`` tokens, so that rows end at different times. What counts is the median of the
ratios of tokens per second.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import sc2onnx
from sc2onnx.batch import Completing, Job, run
from sc2onnx.bench.quartiles import Quartiles, ratio
from sc2onnx.errors import Sc2onnxError
from sc2onnx.runtime.engine.task import Task

SOURCES = Path(__file__).parent.parent / "sc2onnx"


def prompts(model: sc2onnx.Model, rows: int, length: int) -> list[str]:
    """So many pieces of code, of a quarter of ``length`` tokens up to all of it."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted(SOURCES.rglob("*.py")))
    ids, random = model.codec.encode(code, special=False), np.random.default_rng(0)
    found = list[str]()
    for _ in range(rows):
        size = int(random.integers(max(1, length // 4), length + 1))
        start = int(random.integers(0, len(ids) - size))
        found.append(
            b"".join(map(model.codec.token_bytes, ids[start : start + size])).decode(
                "utf-8", errors="replace"
            )
        )
    return found


def alone(model: sc2onnx.Model, given: Sequence[str], task: Completing) -> float:
    """Tokens per second of a loop over ``model.submit`` that keeps as many
    rows under way as a job does.
    """
    options, most = task.settings(), 5 * model.engine.bounds.rows
    waiting, tokens = deque[Task](), 0
    began = time.perf_counter()
    for prompt in given:
        if len(waiting) >= most:
            tokens += len(waiting.popleft().result().tokens)
        waiting.append(model.submit(prompt, **options))
    tokens += sum(len(each.result().tokens) for each in waiting)
    return tokens / (time.perf_counter() - began)


def job(model: sc2onnx.Model, source: Path, out: Path, task: Completing) -> float:
    """Tokens per second of a job, from its first look at the input to the name of its output."""
    began = time.perf_counter()
    done = run(lambda: model, Job([source], out, task))
    assert done.errors == 0
    return done.tokens / (time.perf_counter() - began)


def compare(
    model: sc2onnx.Model, given: Sequence[str], task: Completing, turns: int
) -> tuple[list[float], list[float]]:
    """Tokens per second of jobs and of loops, in turns of which the other begins each time."""
    jobs, loops = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in.jsonl")
        source.write_text(
            "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in given), encoding="utf-8"
        )
        for turn in range(turns):
            for which in ("job", "loop") if turn % 2 else ("loop", "job"):
                model.forget()
                if which == "job":
                    jobs.append(job(model, source, Path(folder, f"{turn}.jsonl"), task))
                else:
                    loops.append(alone(model, given, task))
    return jobs, loops


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rows", type=int, default=200, metavar="N")
    parser.add_argument(
        "--length",
        type=int,
        default=256,
        metavar="N",
        help="tokens of a prompt at most (default: 256)",
    )
    parser.add_argument(
        "--tokens",
        type=int,
        default=48,
        metavar="N",
        help="tokens of an answer at most (default: 48)",
    )
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="(default: 5)")
    parser.add_argument("--max-batch", type=int, default=8, metavar="N")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    try:
        model = sc2onnx.load(
            args.bundle, threads=args.threads, device=args.device, max_batch=args.max_batch
        )
        given = prompts(model, args.rows, args.length)
        task = Completing({"max_new_tokens": args.tokens, "ends": "block"})
        alone(model, given[: 2 * args.max_batch], task)
        jobs, loops = compare(model, given, task, args.turns)
    except (Sc2onnxError, OSError) as error:
        sys.exit(f"batch.py: {error}")
    found = ratio(jobs, loops)
    print(
        f"a job: {Quartiles.of(jobs).median:.0f} tokens/s, the engine alone: "
        f"{Quartiles.of(loops).median:.0f}"
    )
    print(
        f"{found.median:.3f} times as fast (quartiles {found.low:.3f} - {found.high:.3f}, "
        f"{args.turns} turns of {args.rows} rows)"
    )


if __name__ == "__main__":
    main()
