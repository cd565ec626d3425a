"""``info``, ``plan`` and ``doctor``: a bundle, what making one takes, what works here."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from sc2onnx.cli.bundles import located
from sc2onnx.cli.outputs import print_json
from sc2onnx.cli.terminal import say_all, say_table
from sc2onnx.errors import RequestError


def info(args: argparse.Namespace) -> int:
    """Run ``info``."""
    from sc2onnx.runtime.description import described, on_kernels
    from sc2onnx.runtime.memory_need import memory_need
    from sc2onnx.runtime.opening.bundle import Bundle

    manifest = Bundle.open(_bundle(args), check="size", others=True).manifest
    kept, kernels = on_kernels(manifest)
    need = memory_need(manifest, args.context, kept)
    if args.json:
        print_json({**asdict(manifest), "memory": asdict(need)})
        return 0
    shown = {"bundle": str(args.bundle), **described(manifest, need, kept, kernels)}
    say_table(list(shown.items()))
    return 0


def _bundle(args: argparse.Namespace) -> Path:
    """Return the directory of the bundle that ``info`` is asked about.

    Raises :class:`RequestError` for a checkpoint.
    """
    from sc2onnx.bundle.contract import MANIFEST_FILE

    path = Path(args.bundle)
    if (path / "config.json").is_file() and not (path / MANIFEST_FILE).exists():
        ways = f"`sc2onnx plan {path}` tells what exporting it takes, or export it first"
        raise RequestError(f"{path} is a checkpoint, not a bundle: {ways}")
    return located(args.bundle, args.revision)


def plan(args: argparse.Namespace) -> int:
    """Run ``plan``."""
    if args.shape is not None and (args.checkpoint is not None or args.revision is not None):
        ways = f"leave out {args.checkpoint or '--revision'}, or leave out --shape"
        raise RequestError(f"--shape {args.shape} is itself a checkpoint's: {ways}")
    from sc2onnx.cli.plan_lines import lines
    from sc2onnx.cli.plan_table import plan_table

    table = plan_table(
        args.checkpoint,
        args.shape,
        args.revision,
        args.context,
        allow_settings=tuple(args.allow_setting),
        calibration_tokens=args.calibration_tokens,
    )
    if args.json:
        print_json(table.figures())
    else:
        say_all(lines(table))
    return 0


def doctor(args: argparse.Namespace) -> int:
    """Run ``doctor``; the status is 1 where bundles cannot run."""
    from sc2onnx.cli.doctor import diagnose, healthy, rows

    findings = diagnose()
    if args.json:
        print_json([asdict(finding) for finding in findings])
    else:
        say_table(rows(findings))
    return 0 if healthy(findings) else 1
