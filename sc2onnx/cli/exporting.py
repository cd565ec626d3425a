"""``sc2onnx export``: a checkpoint becomes a bundle."""

from __future__ import annotations

import argparse
import json
import time

from sc2onnx.cli.outputs import print_json
from sc2onnx.cli.terminal import say
from sc2onnx.errors import RequestError


def export(args: argparse.Namespace) -> int:
    """Run ``export``."""
    from sc2onnx.export import Calibration, export
    from sc2onnx.export.progress import Silent, for_stream

    began = time.perf_counter()
    files = None if args.calibration is None else tuple(args.calibration)
    wanted = False if args.no_calibration else None
    manifest = export(
        args.checkpoint,
        args.out,
        precision=args.precision,
        target=args.target,
        revision=args.revision,
        allow_settings=tuple(args.allow_setting),
        calibration=Calibration(wanted, files, args.calibration_tokens),
        adapters=_adapters(args.adapter, args.weights),
        stages=args.stages,
        overwrite=args.overwrite,
        progress=Silent() if args.quiet else for_stream(),
    )
    seconds = time.perf_counter() - began
    if args.json:
        facts = {
            "bundle": str(args.out),
            "seconds": seconds,
            "manifest": json.loads(manifest.to_json()),
        }
        print_json(facts)
        return 0
    size = f"{manifest.weight_bytes / 1e9:.3f} GB"
    what = f"{manifest.precision} for {manifest.target}"
    say(f"{args.out}: {manifest.model.parameters:,} parameters, {what}, {size}, {seconds:.1f} s")
    return 0


def _adapters(paths: list[str], weights: list[float] | None) -> list[str] | dict[str, float]:
    """Return the adapters to merge, with their weights where these are given.

    Raises :class:`RequestError` unless there is a weight for each adapter.
    """
    if weights is None:
        return paths
    if len(weights) != len(paths) or len(set(paths)) < len(paths):
        found = f"--weights has {len(weights)} numbers for {len(paths)} adapters"
        raise RequestError(f"{found}, expected one for each --adapter, all of them different")
    return dict(zip(paths, weights, strict=True))
