"""A fleet as editors see it: whether keys meet their caches, what the way there costs, and what
they see of an engine that dies or of engines that come and go.

    python benchmarks/fleet.py BUNDLE --workers 4 --editors 50
    python benchmarks/fleet.py BUNDLE --ray 4 --editors 50 --kill --scale
    python benchmarks/fleet.py BUNDLE --url http://127.0.0.1:8012 --editors 50

``--ray`` needs the environment of ``make ray``. ``--url`` asks a fleet that runs. Beside each of
them one engine alone is asked the same, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx

import sc2onnx
from editors.fleets import Fleet, ray_application, workers
from editors.keystrokes import File
from editors.servers import ours
from editors.table import milliseconds
from editors.typing import TYPED, Key, Typist, pressed, together

SOURCES = Path(__file__).parent.parent / "sc2onnx"


def files(bundle: Path, count: int, tokens: int) -> list[File]:
    """Files of so many tokens, of this project's own code, of which no
    two have a line in common.
    """
    codec = sc2onnx.load(bundle).codec
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted(SOURCES.rglob("*.py")))
    lines = [line for line in code.splitlines() if len(line) > 10]
    found = list[File]()
    for number in range(count):
        own = "\n".join(f"{line}  # {number}" for line in lines[7 * number : 7 * number + tokens])
        text = b"".join(map(codec.token_bytes, codec.encode(own, special=False)[:tokens])).decode(
            errors="ignore"
        )
        found.append(File.opened(f"{number}.py", text, 0.5))
    return found


def trace(
    fleet: Fleet, typists: Sequence[Typist], args: argparse.Namespace, *, kill: bool = False
) -> None:
    """Editors type; with ``kill`` an engine dies when half of the time is over."""
    opening = [Typist(each.number, each.file, 0.1) for each in typists]
    asyncio.run(together(fleet.url, opening, 1, args.tokens))
    killed = list[float]()

    def end_one() -> None:
        killed.append(time.monotonic())
        fleet.kill()

    timer = threading.Timer(0.15 * args.slower * args.keystrokes, end_one)
    if kill:
        timer.start()
    asyncio.run(together(fleet.url, typists, args.keystrokes, args.tokens))
    timer.cancel()
    keys = [key for each in typists for key in each.keys]
    _told("an engine dies in the middle" if kill else "all type", keys)
    if killed:
        _after(killed[0], keys)
    for each in typists:
        each.keys.clear()


def _told(what: str, keys: Sequence[Key]) -> None:
    right = [key for key in keys if key.wrong is None]
    print(f"{what}: {len(keys)} keys, {dict(Counter(key.wrong or 'answered' for key in keys))}")
    print(f"  met their cache: {_share(right)}", end="")
    print(
        "".join(
            f", {kind} {_share([key for key in right if key.kind == kind])}"
            for kind in ("type", "delete", "move")
        )
    )
    print(
        f"  first token: {milliseconds([key.first for key in right if key.first is not None])} ms",
        flush=True,
    )


def _share(keys: Sequence[Key]) -> str:
    return f"{100 * sum(key.met for key in keys) / len(keys):.1f} %" if keys else "none"


def _after(killed: float, keys: Sequence[Key]) -> None:
    """What editors saw of a death."""
    during = [key for key in keys if key.began < killed < key.ended]
    later = [key for key in keys if key.began >= killed]
    print(f"  under way at the death: {dict(Counter(key.wrong or 'answered' for key in during))}")
    print(f"  after it: {dict(Counter(key.wrong or 'answered' for key in later))}", end="")
    soon = [key.ended - key.began for key in later if key.began < killed + 1 and key.wrong is None]
    print(f", in the first second answered in at most {max(soon, default=0.0):.2f} s")


def added(fleet: Fleet, bundle: Path, file: File, threads: int) -> None:
    """What the way through the fleet adds to the first token after a typed character, in turns."""
    with ours(bundle, threads, "--no-speculate", "--no-page") as alone:
        print("\n".join(asyncio.run(_in_turns([fleet.url, alone.url], file))), flush=True)


async def _in_turns(urls: Sequence[str], file: File) -> list[str]:
    took: list[list[float]] = [[] for _ in urls]
    async with httpx.AsyncClient(timeout=120) as client:
        for number in range(61):
            for place in range(len(urls)):
                which = (number + place) % len(urls)
                client.base_url = httpx.URL(urls[which])
                key = await pressed(client, file.typed(TYPED[: number + 1]), "type", 1)
                if number and key.first is not None:
                    took[which].append(key.first)
    more = 1e3 * median(a - b for a, b in zip(*took, strict=True))
    there, alone = map(milliseconds, took)
    return [
        (
            f"first token: {there} ms through the fleet, {alone} ms of one engine: "
            f"{more:.2f} ms more in the median"
        )
    ]


def scaled(fleet: Fleet, typists: Sequence[Typist], args: argparse.Namespace) -> None:
    """Keys of all files after 2 -> 4 -> 2 engines: who did not meet its cache
    had to move, or was moved.
    """
    assert fleet.scale is not None
    for count in (2, 4, 2):
        fleet.scale(count)
        asked = list[Key]()
        for _ in range(2):
            again = [Typist(each.number, each.file, 0.1) for each in typists]
            asyncio.run(together(fleet.url, again, 1, args.tokens))
            asked = asked or [key for each in again for key in each.keys]
        moved = sum(not key.met for key in asked)
        print(
            f"{count} engines: {moved} of {len(asked)} files did not meet their "
            "cache with their next key",
            flush=True,
        )


@contextmanager
def started(args: argparse.Namespace) -> Iterator[Fleet]:
    """The fleet that is asked for."""
    if args.url is not None:
        yield Fleet(args.url, list)
        return
    start = workers if args.workers else ray_application
    with start(args.bundle, args.workers or args.ray, args.threads) as fleet:
        yield fleet


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--workers", type=int, help="processes of sc2onnx serve")
    which.add_argument("--ray", type=int, help="engines of a Ray application")
    which.add_argument("--url", help="a fleet that runs")
    parser.add_argument("--editors", type=int, default=50, help="default: 50")
    parser.add_argument("--keystrokes", type=int, default=40, help="of each (default: 40)")
    parser.add_argument("--tokens", type=int, default=8, help="of a completion (default: 8)")
    parser.add_argument(
        "--length", type=int, default=600, help="tokens of each file (default: 600)"
    )
    parser.add_argument(
        "--slower", type=float, default=10, help="pauses, times as long as people's (default: 10)"
    )
    parser.add_argument("--threads", type=int, default=1, help="of an engine (default: 1)")
    parser.add_argument(
        "--kill", action="store_true", help="an engine dies in the middle of a second trace"
    )
    parser.add_argument("--scale", action="store_true", help="2 -> 4 -> 2 engines (--ray)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = _parser()
    args = parser.parse_args(argv)
    if (args.url and args.kill) or (args.scale and not args.ray):
        parser.error("--kill is for --workers and --ray, --scale for --ray")
    made = files(args.bundle, args.editors + 1, args.length)
    typists = [Typist(number, file, args.slower) for number, file in enumerate(made[1:])]
    with started(args) as fleet:
        trace(fleet, typists, args)
        added(fleet, args.bundle, made[0], args.threads)
        if args.kill:
            trace(fleet, typists, args, kill=True)
        if args.scale:
            scaled(fleet, typists, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
