"""``batch``: what other commands do with one text, done with the rows of files."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from sc2onnx.cli.attribution_options import attribution_of
from sc2onnx.cli.bundles import loaded
from sc2onnx.cli.common_options import DRAWN
from sc2onnx.cli.constraints import constraint
from sc2onnx.cli.outputs import print_json
from sc2onnx.cli.process import asked_to_stop
from sc2onnx.cli.progress import progress
from sc2onnx.cli.terminal import say_all
from sc2onnx.errors import RequestError
from sc2onnx.messages import tell

if TYPE_CHECKING:
    from sc2onnx.batch import Task
    from sc2onnx.runtime.model import Model


def batch(args: argparse.Namespace) -> int:
    """Run ``batch``; the status is 1 where rows could not be computed."""
    from sc2onnx.batch import Job, run
    from sc2onnx.batch.progress import EVERY, Progress, summary

    job = Job(
        args.inputs, args.output, _task(args), _renamed(args.field), args.restart, args.fail_fast
    )
    with asked_to_stop() as asked, progress(args.quiet, EVERY) as shown:
        told = Progress(None if args.quiet else shown, shown.every)
        done = run(lambda: _model(args), job, progress=told, stopping=lambda: bool(asked.number))
    if done.state != "done":
        tell(f"stopped after {done.rows:,} rows: run the same command again to go on")
        return 128 + asked.number
    if args.json:
        print_json({"output": str(args.output), **asdict(done)})
    else:
        say_all([*summary(done), f"in {args.output}"])
    return 1 if done.errors else 0


_RULES: Final = (*DRAWN, "ends", "heal", "logprobs")
"""Options that are keywords of ``Model.generate`` and ``Model.infill`` as well."""


def _task(args: argparse.Namespace) -> Task:
    """What is done with each row."""
    from sc2onnx.batch import Completing, Evaluating, Infilling, Marks, Measures, Scoring

    marks = Marks(attribution_of(args))
    if marks.attribution is not None and args.task not in ("complete", "infill"):
        raise RequestError("--attribution is for complete and infill, which write a text")
    drawn: dict[str, Any] = {name: getattr(args, name) for name in _RULES}
    drawn |= {name: value for name, value in constraint(args).items() if value is not None}
    if args.task == "complete":
        return Completing({**drawn, "special_tokens": args.special_tokens}, marks)
    if args.task == "infill":
        more = {"order": args.order, "prompt_tokens": args.prompt_tokens}
        return Infilling({**drawn, **more}, marks)
    if args.task == "score":
        return Scoring(args.logprobs, args.adapter)
    measures = Measures(args.length, args.score_tokens, args.infill, args.seed, args.order)
    return Evaluating(measures, args.adapter)


def _renamed(given: list[str]) -> dict[str, str]:
    """Fields of the input by the names that the task has for them. Raises :class:`RequestError`."""
    found = dict[str, str]()
    for pair in given:
        name, sign, field = pair.partition("=")
        if not sign or name in found:
            raise RequestError(f"--field is {pair!r}, expected NAME=FIELD, and each NAME once")
        found[name] = field
    return found


def _model(args: argparse.Namespace) -> Model:
    return loaded(args, max_batch=args.max_batch, prefix_memory=args.prefix_memory)
