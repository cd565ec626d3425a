"""What a text has to be, by options: a schema and a grammar are in files."""

from __future__ import annotations

import argparse
from typing import Any

from sc2onnx.cli.outputs import read_text


def constraint(args: argparse.Namespace) -> dict[str, Any]:
    """Return keywords of ``Model.generate`` from the options of a constraint. Raises
    :class:`~sc2onnx.errors.RequestError` for a file that cannot be read.
    """
    return {
        "json_schema": None if args.json_schema is None else read_text(args.json_schema),
        "grammar": None if args.grammar is None else read_text(args.grammar),
        "regex": args.regex,
        "choices": args.choices,
    }
