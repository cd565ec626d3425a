"""``info`` and ``doctor``: what a bundle is, what exporting one would take, what works here."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from sc2onnx.cli.bundles import located
from sc2onnx.cli.outputs import print_json
from sc2onnx.cli.terminal import say_all
from sc2onnx.errors import RequestError
from sc2onnx.tables import aligned


def info(args: argparse.Namespace) -> int:
    """Run ``info``, also with ``--plan``."""
    if args.plan:
        return _plan(args)
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
    say_all(aligned(list(shown.items())))
    return 0


def _bundle(args: argparse.Namespace) -> Path:
    """Return the directory of the bundle that ``info`` is asked about.

    Raises :class:`RequestError` for options that only ``--plan`` takes.
    """
    from sc2onnx.bundle.contract import MANIFEST_FILE

    if args.shape is not None:
        raise RequestError("--shape is for a checkpoint: add --plan")
    if args.allow_setting:
        raise RequestError("--allow-setting is for a checkpoint: add --plan")
    if args.bundle is None:
        ways = "give its directory, or --plan for what exporting a checkpoint would take"
        raise RequestError(f"no bundle: {ways}")
    path = Path(args.bundle)
    if (path / "config.json").is_file() and not (path / MANIFEST_FILE).exists():
        ways = "add --plan for what exporting it would take, or export it first"
        raise RequestError(f"{path} is a checkpoint, not a bundle: {ways}")
    return located(args.bundle, args.revision)


def _plan(args: argparse.Namespace) -> int:
    if args.shape is not None and (args.bundle is not None or args.revision is not None):
        ways = f"leave out {args.bundle or '--revision'}, or leave out --shape"
        raise RequestError(f"--shape {args.shape} is itself a checkpoint's: {ways}")
    from sc2onnx.cli.plan_table import lines, plan_table

    allowed = tuple(args.allow_setting)
    table = plan_table(
        args.bundle,
        args.shape,
        args.revision,
        args.context,
        allow_settings=allowed,
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
        say_all(aligned(rows(findings)))
    return 0 if healthy(findings) else 1
