"""A large fleet in numbers: editors, fronts and nodes whose steps cost what was measured.

    python benchmarks/simulate_fleet.py validate
    python benchmarks/simulate_fleet.py load --json load.json --plot docs/fleet-load.png
    python benchmarks/simulate_fleet.py events --json events.json --plot docs/fleet-events.png

``validate`` compares one simulated node with what real servers were measured to do. ``load`` goes
to 10,000 editors at 100 nodes. ``events`` restarts a node, and adds one. Each prints what it takes
for granted. A seed gives the same figures again. docs/sizing.md says what they mean.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from math import isinf
from pathlib import Path
from statistics import mean
from typing import Any, Final

from fleet_model.assumptions import assumptions
from fleet_model.costs import StepTable
from fleet_model.editors import Habits
from fleet_model.events import EVENTS, NOTHING, Course, course
from fleet_model.fleet import Plan
from fleet_model.load import BOUNDS, SWEEPS, TINY, Lines, Point, as_json, borne, knee, swept
from fleet_model.node import Server
from fleet_model.plots import plot_events, plot_load
from fleet_model.store import DEFAULT
from fleet_model.validation import compared
from sc2onnx.errors import Sc2onnxError
from sc2onnx.plotting import check_plot

WHICH: Final = {
    "waited": "keys that somebody waits for",
    "typed": "keys that somebody waits for, with the cursor where it was",
    "first": "first tokens before the next key",
}
EVENT_NODES: Final = 10
EVENT_SEEDS: Final = 6


def validate() -> None:
    """Print measured and simulated figures."""
    for noise in (0.0, 0.1, 0.2):
        print(f"\nsteps that differ by {noise:.0%}:\n")
        print("| | measured | simulated | off |\n|---|---|---|---|")
        for each in compared(noise):
            print(each)


def load(plan: Plan, args: argparse.Namespace) -> None:
    """Print, write and draw waiting over load."""
    lines: Lines = {}
    sweeps = TINY if args.tiny else SWEEPS
    wanted = args.sizes or [each.nodes for each in sweeps]
    for key, point in swept([each for each in sweeps if each.nodes in wanted], plan):
        lines.setdefault(key, []).append(point)
        _progress(key.nodes, key.policy, point)
    for which, told in WHICH.items():
        bounds = " | ".join(f"{bound:g} s" for bound in BOUNDS)
        print(f"\neditors for each node, p95 of {told}:\n\n| nodes | policy | {bounds} |")
        print("|---|---|" + "---|" * len(BOUNDS))
        for (nodes, policy), points in lines.items():
            found = " | ".join(_number(borne(points, bound, which), points) for bound in BOUNDS)
            print(f"| {nodes} | {policy} | {found} |")
    knees = {key: _number(knee(points), points) for key, points in lines.items()}
    print("\nknees:", ", ".join(f"{nodes} {name}: {at}" for (nodes, name), at in knees.items()))
    _write(args.json, {"plan": asdict(plan), "points": as_json(lines)})
    if args.plot:
        plot_load(lines, args.plot)


def _progress(nodes: int, policy: str, point: Point) -> None:
    figures = point.figures
    print(
        f"{nodes} nodes, {point.per_node} editors each, {policy}, seed {point.seed}: p95 "
        f"{figures.waited:.2f} s of {figures.requests:,} requests, {figures.whole:.0%} whole, "
        f"busy {figures.busy:.0%}, behind {figures.behind:.0%}",
        file=sys.stderr, flush=True,
    )  # fmt: skip


def _number(found: float | None, points: Sequence[Point]) -> str:
    loads = [point.per_node for point in points]
    if found is None:
        return f"< {min(loads)}"
    return f"> {max(loads)}" if isinf(found) else f"{found:.0f}"


def events(plan: Plan, args: argparse.Namespace) -> None:
    """Print, write and draw a restart and a node that joins."""
    nodes, seeds = (3, 1) if args.tiny else (EVENT_NODES, EVENT_SEEDS)
    plan = replace(plan, nodes=nodes, editors=nodes * args.per_node)
    found = list[Course]()
    for event in EVENTS:
        for policy in ("affinity", "rendezvous") if event != NOTHING else ("affinity",):
            found.append(course(event, replace(plan, policy=policy), range(seeds)))
            last = mean(shares[-1] for shares in found[-1].shares)
            told = f"in the end the node has {last:.2f} times the requests of a mean one"
            print(f"{event}, {policy}: {told}", flush=True)
    _write(args.json, {"courses": [asdict(each) for each in found]})
    if args.plot:
        titles = {
            "restart": f"One node of {nodes} restarts",
            "join": f"{nodes} nodes become {nodes + 1}",
        }
        plot_events(found, titles, args.plot)


def _write(path: Path | None, found: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")


def _plan(args: argparse.Namespace) -> Plan:
    people = ("keys", "think", "moves", "files", "tokens", "switches", "opens", "debounce")
    habits = Habits(**{name: getattr(args, name) for name in people})
    server = Server(
        **{name: getattr(args, name) for name in ("slots", "noise", "steady", "sees")},
        kept=int(args.kept_gb * 1e9),
        costs=StepTable(1 / args.speed),
        prompt_seconds=args.prompt_seconds or None,
    )
    plan = Plan(1, 1, "affinity", habits=habits, server=server)
    return replace(plan, hop=args.hop, per_front=args.per_front)


def _parser() -> argparse.ArgumentParser:
    whole = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=whole)
    parser.add_argument("what", choices=("validate", "load", "events"))
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--plot", type=Path, help="draw them there")
    parser.add_argument("--tiny", action="store_true", help="a few small fleets")
    parser.add_argument("--sizes", type=int, nargs="+", help="load: nodes of fleets, such as 1 10")
    parser.add_argument("--per-node", type=int, default=16, help="events: editors of a node (16)")
    people, server, nodes = Habits(), Server(), Plan(1, 1, "affinity")
    numbers: list[tuple[str, float, str]] = [
        ("keys", people.keys, "keys of a burst"),
        ("think", people.think, "seconds between bursts"),
        ("moves", people.moves, "share of the keys that move the cursor"),
        ("files", people.files, "files that an editor has open"),
        ("tokens", people.tokens, "of a file"),
        ("switches", people.switches, "share of the bursts that begin in another open file"),
        ("opens", people.opens, "share of the bursts that begin in a new file"),
        ("debounce", people.debounce, "seconds without a key before an editor asks"),
        ("slots", server.slots, "requests that a node computes together"),
        ("kept-gb", DEFAULT / 1e9, "GB of caches that a node keeps"),
        ("prompt-seconds", server.prompt_seconds or 0, "of a prompt before it is cut; 0: any"),
        ("noise", server.noise, "by which steps differ"),
        ("speed", 1.0, "of a node, of two cores as measured"),
        ("hop", nodes.hop, "seconds that a front takes"),
        ("per-front", nodes.per_front, "nodes for each front"),
    ]
    for name, default, told in numbers:
        told = f"{told} ({default:g})"
        parser.add_argument(f"--{name}", type=type(default), default=default, help=told)
    parser.add_argument("--steady", action="store_true", help="cuts by costs that stay the same")
    parser.add_argument("--sees", action="store_true", help="requests see what others computed")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    args, began = _parser().parse_args(argv), time.process_time()
    plan = _plan(args)
    try:
        if args.plot:
            check_plot(args.plot)
        if args.what == "validate":
            validate()
        else:
            print("\n".join(f"- {each}" for each in assumptions(plan)), flush=True)
            (load if args.what == "load" else events)(plan, args)
    except Sc2onnxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{time.process_time() - began:.0f} s of one core", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
