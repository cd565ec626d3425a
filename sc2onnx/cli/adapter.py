"""``adapter``: convert an adapter of peft for the runtime, and say what a converted one is."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from sc2onnx.cli.outputs import print_json
from sc2onnx.cli.terminal import say, say_table
from sc2onnx.errors import RequestError


def adapter(args: argparse.Namespace) -> int:
    """Run ``adapter``."""
    if args.action == "info":
        return _info(args)
    from sc2onnx.export import convert_adapter

    if args.out is None:
        raise RequestError("there is no OUT, expected a directory to make: give one")
    facts = convert_adapter(args.adapter, args.out, half=args.half, overwrite=args.overwrite)
    if args.json:
        print_json({"adapter": str(args.out), **asdict(facts)})
    else:
        say(f"{args.out}: {facts.kind} of rank {facts.rank}, {facts.size / 1e6:.1f} MB")
    return 0


def _info(args: argparse.Namespace) -> int:
    from sc2onnx.bundle.adapter_facts import AdapterFacts

    if args.out is not None or args.half or args.overwrite:
        raise RequestError("info takes a directory alone: leave out what else is given")
    facts = AdapterFacts.read(Path(args.adapter))
    if args.json:
        print_json({"adapter": str(args.adapter), **asdict(facts)})
        return 0
    shown = {
        "adapter": str(args.adapter),
        "kind": facts.kind,
        "rank": str(facts.rank),
        "matrices": f"{facts.size / 1e6:.1f} MB in {facts.element}",
        "made from": facts.source,
        "trained on": facts.base or "a model that it does not name",
        "made by": facts.exporter,
    }
    say_table(list(shown.items()))
    return 0
