"""``serve``: models behind HTTP, for editors."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sc2onnx.cli.outputs import read_keys
from sc2onnx.errors import MissingDependencyError, RequestError
from sc2onnx.hints import install
from sc2onnx.messages import tell

if TYPE_CHECKING:
    from sc2onnx.runtime.model import Model


def serve(args: argparse.Namespace) -> int:
    """Run ``serve``."""
    try:
        from sc2onnx.serve.run import serve
        from sc2onnx.serve.settings import Settings
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("sc2onnx"):
            raise
        raise MissingDependencyError(f"serving needs {error.name}: {install('serve')}") from error

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    bundles = _named(args)
    settings = Settings(
        host=args.host,
        port=args.port,
        keys=read_keys(args.key_file),
        hosts=tuple(args.allowed_host),
        origins=tuple(args.origin),
        waiting=args.waiting,
        most_tokens=args.most_tokens,
    )
    serve(settings, lambda: _loaded(bundles, args), tell)
    return 0


def _named(args: argparse.Namespace) -> dict[str, str | Path]:
    """Bundles by the names that they go by."""
    bundles: dict[str, str | Path] = {args.alias or Path(args.bundle).name: args.bundle}
    for given in args.model:
        name, equals, bundle = given.partition("=")
        if not (name and equals and bundle) or name in bundles:
            raise RequestError(f"--model is {given!r}, expected NAME=BUNDLE, each name once")
        bundles[name] = bundle
    return bundles


def _loaded(bundles: Mapping[str, str | Path], args: argparse.Namespace) -> dict[str, Model]:
    from sc2onnx.runtime.loading import load

    found = dict[str, "Model"]()
    for name, bundle in bundles.items():
        found[name] = load(
            bundle,
            device=args.device,
            threads=args.threads,
            kernels=args.kernels,
            cache_type=args.cache_type,
            max_batch=args.max_batch,
            prefix_memory=args.prefix_memory,
        )
        if "starcoder2" in name.lower():
            tell(f"the name {name} makes Continue end completions at lines that begin with t: give another with --alias")
    return found
