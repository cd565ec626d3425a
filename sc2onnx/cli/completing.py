"""``completion``: a script that lets a shell complete commands and options."""

from __future__ import annotations

import argparse

from sc2onnx.cli.options import parser
from sc2onnx.errors import MissingDependencyError
from sc2onnx.hints import install


def completion(args: argparse.Namespace) -> int:
    """Run ``completion``."""
    try:
        from shtab import complete
    except ModuleNotFoundError as error:
        found = "completion needs the package shtab"
        raise MissingDependencyError(f"{found}: {install('terminal')}") from error
    print(complete(parser(), args.shell))
    return 0
