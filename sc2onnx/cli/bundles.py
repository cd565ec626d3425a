"""Bundles as they are: found on the hub and loaded, ``warm`` and ``push``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sc2onnx.cli.outputs import print_json
from sc2onnx.cli.terminal import say
from sc2onnx.errors import RequestError

if TYPE_CHECKING:
    from sc2onnx.runtime.model import Model


def located(bundle: str | Path, revision: str | None = None) -> Path:
    """Return the directory of a bundle, also of one on the hub."""
    from sc2onnx.bundle.hub import located

    return located(bundle, revision)


def loaded(args: argparse.Namespace, **own: Any) -> Model:
    """The model of a command's bundle, run as its options say. ``own``: keywords of
    :func:`sc2onnx.load` that are the command's own. Raises what that raises, and
    :class:`~sc2onnx.errors.RequestError` for a device beside a map of devices.
    """
    from sc2onnx.runtime.loading import load

    if args.device_map is not None and args.device != "cpu":
        raise RequestError("--device and --device-map are given, expected either")
    return load(
        args.bundle,
        device=args.device,
        device_map=args.device_map,
        threads=args.threads,
        kernels=args.kernels,
        cache_type=args.cache_type,
        speculate=args.speculate,
        **own,
    )


def warm(args: argparse.Namespace) -> int:
    """Run ``warm``."""
    from sc2onnx.runtime.description import on_kernels
    from sc2onnx.runtime.opening.bundle import Bundle
    from sc2onnx.runtime.ort.kernels import usable
    from sc2onnx.runtime.ort.packing import make

    bundle = Bundle.open(args.bundle)
    kernels = usable("auto", bundle.manifest)
    if kernels is None:
        reason = on_kernels(bundle.manifest)[1] or "its weights are not quantised"
        say(f"{args.bundle}: {reason}: there is nothing to pack")
        return 0
    form = make(bundle, kernels)
    say(f"{args.bundle}: {form.nbytes / 1e9:.3f} GB of packed weights in {form.directory}")
    return 0


def push(args: argparse.Namespace) -> int:
    """Run ``push``."""
    from sc2onnx.runtime.opening.bundle import push

    branch = {"private": args.private, "revision": args.revision, "message": args.message}
    address = push(args.bundle, args.repo, **branch)
    if args.json:
        print_json({"bundle": str(args.bundle), "repo": args.repo, "commit": address})
    else:
        say(address)
    return 0
