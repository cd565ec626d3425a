"""Bundles as they are: found on the hub and loaded, ``warm`` and ``push``."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sc2onnx.cli.outputs import print_json
from sc2onnx.cli.progress import waiting
from sc2onnx.cli.terminal import say
from sc2onnx.errors import RequestError

if TYPE_CHECKING:
    from sc2onnx.runtime.model import Model


def located(bundle: str | Path, revision: str | None = None) -> Path:
    """Return the directory of a bundle, also of one on the hub."""
    from sc2onnx.bundle.hub import located

    return located(bundle, revision)


def loading(*bundles: Path) -> AbstractContextManager[object]:
    """Tell that bundles are loaded, where that takes long: their files are read and checked."""
    named = ", ".join(str(each) for each in bundles)
    return waiting(f"loading {named}", sum(_size(each) for each in bundles))


def _size(bundle: Path) -> int:
    """Return the bytes of a bundle's files; 0 where they cannot be looked at."""
    try:
        return sum(each.stat().st_size for each in bundle.iterdir())
    except OSError:
        return 0


_LOADING: Final = ("device", "device_map", "threads", "kernels", "cache_type", "speculate")
"""Options that are keywords of :func:`sc2onnx.load` as well."""


def loaded(args: argparse.Namespace, **own: Any) -> Model:
    """The model of a command's bundle, run as its options say. ``own``: keywords of
    :func:`sc2onnx.load` that are the command's own; options that the command has not are as they
    are by default there. An adapter that they name is loaded as well, under what was given for it.
    Raises what that raises, and
    :class:`~sc2onnx.errors.RequestError` for a device beside a map of devices.
    """
    from sc2onnx.runtime.loading import load

    said = {name: value for name, value in vars(args).items() if name in _LOADING}
    if said.get("device_map") is not None and args.device != "cpu":
        raise RequestError("--device and --device-map are given, expected either")
    model = load(args.bundle, **said, **own)
    if (adapter := getattr(args, "adapter", None)) is not None:
        model.load_adapter(adapter, adapter)
    return model


def warm(args: argparse.Namespace) -> int:
    """Run ``warm``."""
    from sc2onnx.runtime.description import on_kernels
    from sc2onnx.runtime.opening.bundle import Bundle
    from sc2onnx.runtime.ort.kernels import usable
    from sc2onnx.runtime.ort.packing import make

    with waiting(f"checking {args.bundle}", _size(args.bundle), args.quiet):
        bundle = Bundle.open(args.bundle)
    kernels = usable("auto", bundle.manifest)
    if kernels is None:
        reason = on_kernels(bundle.manifest)[1] or "its weights are not quantised"
        told = f"{reason}: there is nothing to pack"
        _say_warm(args, told, {"packed": None, "bytes": 0, "reason": reason})
        return 0
    with waiting(f"packing {args.bundle}", _size(args.bundle), args.quiet):
        form = make(bundle, kernels)
    told = f"{form.nbytes / 1e9:.3f} GB of packed weights in {form.directory}"
    _say_warm(args, told, {"packed": str(form.directory), "bytes": form.nbytes})
    return 0


def _say_warm(args: argparse.Namespace, told: str, facts: dict[str, Any]) -> None:
    if args.json:
        print_json({"bundle": str(args.bundle), **facts})
    else:
        say(f"{args.bundle}: {told}")


def push(args: argparse.Namespace) -> int:
    """Run ``push``."""
    from sc2onnx.runtime.opening.bundle import push

    branch = {"private": args.private, "revision": args.revision, "message": args.message}
    with waiting(f"checking {args.bundle}", _size(args.bundle)):  # the hub's library shows its own
        address = push(args.bundle, args.repo, **branch)
    if args.json:
        print_json({"bundle": str(args.bundle), "repo": args.repo, "commit": address})
    else:
        say(address)
    return 0
