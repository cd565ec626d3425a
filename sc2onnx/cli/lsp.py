"""``lsp``: a language server for editors, over standard input and output."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sc2onnx.cli.attribution_options import attribution_of
from sc2onnx.cli.bundles import loaded
from sc2onnx.cli.outputs import read_keys
from sc2onnx.cli.process import needing
from sc2onnx.errors import RequestError

if TYPE_CHECKING:
    from sc2onnx.serve.lsp.completer import Completer


def lsp(args: argparse.Namespace) -> int:
    """Run ``lsp``."""
    with needing("lsp", "the language server"):
        from sc2onnx.serve.lsp.options import Options
        from sc2onnx.serve.lsp.run import run

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s")
    options = Options(
        max_tokens=args.max_new_tokens,
        mode=args.mode,
        timeout=args.timeout,
        neighbours=args.neighbours,
    )
    return run(_completer(args), options, attribution_of(args))


def _completer(args: argparse.Namespace) -> Completer:
    """Who completes: the bundle's model, or a server."""
    if (args.bundle is None) == (args.server is None):
        raise RequestError("expected either a bundle or --server URL: give one of them")
    if args.server is None:
        from sc2onnx.serve.lsp.local import Local

        if args.key_file is not None:
            raise RequestError("--key-file is for --server, expected both or neither")
        return Local(lambda: loaded(args, prefix_memory=args.prefix_memory))
    from sc2onnx.serve.lsp.remote import Remote

    keys = () if args.key_file is None else read_keys([Path(args.key_file)])
    return Remote(args.server, keys[0] if keys else None)
