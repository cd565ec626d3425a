"""``verify``, ``evaluate`` and ``bench``: how right, how good and how fast bundles are."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sc2onnx.cli.measured_adapters import MeasuredAdapters
from sc2onnx.cli.outputs import check_outputs, check_writable, print_json, publish, write_figures
from sc2onnx.cli.progress import Progress, progress, waiting
from sc2onnx.cli.terminal import say_all
from sc2onnx.messages import left
from sc2onnx.tables import line

if TYPE_CHECKING:
    from sc2onnx.evaluate import Opener
    from sc2onnx.evaluate.suite import Task
    from sc2onnx.verify.run import CaseResult, Report

_HEADINGS: Final = ("length", "split", "max diff", "relative", "KL", "top-1")
_WIDTHS: Final = (7, 15, 9, 9, 9, 8)
"""Columns of the table of ``verify``, whose rows are shown as they come."""


def verify(args: argparse.Namespace) -> int:
    """Run ``verify``; the status is 1 where the bundle failed."""
    check_writable(args.save)  # first: torch takes seconds to import
    from sc2onnx.verify import verify
    from sc2onnx.verify.run import record

    with progress(args.quiet) as shown, waiting("torch computes", quiet=args.quiet) as end:
        report = verify(
            args.bundle,
            args.checkpoint,
            adapters=args.adapter,
            text=args.text,
            max_length=args.length,
            greedy_tokens=args.greedy,
            kernels=args.kernels,
            device=args.device,
            tell=_Cases(shown, end),
            keep=False,
        )
    figures = {"summary": asdict(report.summary), "cases": _cases(report)}
    try:
        if args.json:
            print_json(figures)
        else:
            say_all(_verdict(report))
    finally:  # a disk that is full, here or below, costs no figure that another place can take
        if args.kernels == "off" and args.device == "cpu":
            record(args.bundle, report)
        if args.save is not None:
            write_figures(args.save, figures)
    return 0 if report.summary.passed else 1


class _Cases:
    """Shows each case of a verification as a row of a table, and below it how far that is."""

    def __init__(self, shown: Progress, begun: Callable[[], None]) -> None:
        self._shown, self._begun, self._began = shown, begun, 0.0

    def __call__(self, result: CaseResult) -> None:
        now = time.monotonic()
        if result.number == 1:
            self._begun()
            self._row(_HEADINGS)
            self._began = now
        found = result.difference
        diffs = (f"{found.max_abs_diff:.2e}", f"{found.max_rel_diff:.2e}")
        rest = (f"{found.kl_divergence:.2e}", f"{found.top1_agreement:.2%}")
        self._row((str(result.case.length), result.case.split, *diffs, *rest))
        if self._shown.in_place and result.number < result.total:
            after = left(now - self._began, result.number - 1, result.total - 1)
            self._shown(f"{result.number} of {result.total} cases{after}")

    def _row(self, cells: tuple[str, ...]) -> None:
        self._shown.keep(line(cells, _WIDTHS, left=(1,)))


def _cases(report: Report) -> list[dict[str, object]]:
    """Every case for JSON."""
    return [
        {"length": found.case.length, "split": found.case.split, **found.difference.figures()}
        for found in report.cases
    ]


def _verdict(report: Report) -> list[str]:
    """What a comparison found, in lines for a person."""
    summary = report.summary
    relative, absolute = summary.shown("max_rel_diff", ".2e"), summary.shown("max_abs_diff", ".2e")
    limit = f"of the largest logit at most (tolerance {summary.tolerance:.2g})"
    divergence = f"KL divergence {summary.shown('kl_divergence', '.2e')} nats"
    agreement = f"same top token {summary.shown('top1_agreement', '.2%')}"
    nll = f"NLL {summary.shown('nll', '.4f')} (torch {summary.shown('nll_reference', '.4f')})"
    return [
        f"against {summary.reference}",
        f"on {summary.text}",
        f"logits: {relative} {limit}, {absolute} absolute",
        *_usual(report),
        f"{divergence}, {agreement}, {nll}, {summary.positions:,} positions",
        f"greedy: {summary.greedy_match} of {summary.greedy_tokens} tokens equal",
        "passed" if summary.passed else "FAILED",
    ]


def _usual(report: Report) -> list[str]:
    """The line on the errors' root mean square, where that is limited."""
    most, found = report.criterion.usual, report.difference.rms_rel_diff
    if most is None:
        return []
    limit = f"of the logits' root mean square (tolerance {most:.2g})"
    return [f"errors' root mean square: {found:.2e} {limit}"]


def evaluate(args: argparse.Namespace) -> int:
    """Run ``evaluate``."""
    from sc2onnx.evaluate import Settings, evaluate
    from sc2onnx.evaluate.plot import plot
    from sc2onnx.evaluate.table import lines

    adapters = MeasuredAdapters.of(args.adapter)
    settings = Settings(
        length=args.length,
        max_tokens=args.score_tokens,
        infill=args.infill,
        seed=args.seed,
        threads=args.threads,
        order=args.order,
        kernels=args.kernels,
        cache_type=args.cache_type,
        adapter=adapters.converted,
        suite=_suite(args.suite),
        questions=args.questions,
        servers=tuple(args.server),
    )
    check_outputs(args)
    with progress(args.quiet) as shown:
        report = evaluate(
            args.bundle,
            args.files,
            also=args.also,
            against=_reference(args, adapters),
            settings=settings,
            tell=shown,
            every=shown.every,
        )
    publish(args, lines(report), report.figures, lambda path: plot(report, path))
    return 0


def _suite(asked: list[Task] | None) -> tuple[Task, ...]:
    """The tasks that ``--suite`` names; those that execute nothing where it names none."""
    from sc2onnx.evaluate.suite import CUT

    return tuple(asked or CUT) if asked is not None else ()


def _reference(args: argparse.Namespace, adapters: MeasuredAdapters) -> Opener | None:
    """Open what ``--against`` names: a bundle, or else a checkpoint, which torch computes."""
    from sc2onnx.bundle.contract import MANIFEST_FILE
    from sc2onnx.bundle.manifest import Manifest
    from sc2onnx.evaluate import reference_opener

    if args.against is None or (Path(args.against) / MANIFEST_FILE).exists():
        adapters.check_unsaved(args.against)
    if args.against is None:
        return None
    if (Path(args.against) / MANIFEST_FILE).exists():
        how = (args.threads, args.kernels, args.cache_type)
        return reference_opener(args.against, *how, adapters.converted)
    manifest = Manifest.read(args.bundle)
    from sc2onnx.verify import torch_opener

    merged = adapters.merged(manifest, args.against)
    return torch_opener(args.against, manifest.provenance, args.threads, merged)


def bench(args: argparse.Namespace) -> int:
    """Run ``bench``."""
    from sc2onnx.bench import Settings, bench
    from sc2onnx.bench.plot import plot
    from sc2onnx.bench.table import lines

    settings = Settings(
        contexts=None if args.context is None else tuple(args.context),
        steps=tuple(args.steps),
        prefill=None if args.prefill is None else tuple(args.prefill),
        repeat=args.repeat,
        threads=args.threads,
        real_prefill=args.real_prefill,
        device=args.device,
        kernels=args.kernels,
        cache_type=args.cache_type,
    )
    check_outputs(args)
    with progress(args.quiet) as shown:
        report = bench(args.bundle, also=args.also, settings=settings, tell=shown)
    publish(args, lines(report), report.figures, lambda path: plot(report, path))
    return 0
