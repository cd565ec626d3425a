"""``route``: one address for several servers."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sc2onnx.cli.outputs import read_keys
from sc2onnx.cli.process import needing
from sc2onnx.errors import RequestError

if TYPE_CHECKING:
    from sc2onnx.serve.settings import Settings

_RANGE: Final = re.compile(r"\{(\d{1,4})\.\.(\d{1,4})\}")


def route(args: argparse.Namespace) -> int:
    """Run ``route``."""
    with needing("serve", "routing"):
        from sc2onnx.fleet.discovery import Discovery
        from sc2onnx.fleet.member import Member
        from sc2onnx.fleet.members import Members
        from sc2onnx.fleet.run import route
        from sc2onnx.serve.logs import set_up

    urls = list(_each(args.member))
    if not urls and args.discover is None:
        raise RequestError("there is nobody to route to: give --member URL or --discover HOST:PORT")
    if args.slots < 1:
        raise RequestError(f"slots is {args.slots}, expected 1 or more")
    found = None if args.discover is None else Discovery(args.discover)
    members = Members(Member(url, url) for url in urls)
    settings = _settings(args)
    set_up(args.log or "text")
    route(settings, members, found, args.slots)
    return 0


def _each(urls: Sequence[str]) -> Iterator[str]:
    """URLs one by one: ``http://engine-{0..2}:8012`` is three. Each is there once."""
    seen = set[str]()
    for url in urls:
        span = _RANGE.search(url)
        numbers = range(int(span[1]), int(span[2]) + 1) if span else range(1)
        for number in numbers:
            one = (_RANGE.sub(str(number), url, count=1) if span else url).rstrip("/")
            if one not in seen:
                seen.add(one)
                yield one


def _settings(args: argparse.Namespace) -> Settings:
    from sc2onnx.serve.settings import Settings

    given: dict[str, Any] = {
        "host": args.host,
        "port": args.port,
        "drain_seconds": args.drain_seconds,
        "traces": args.traces,
        "hosts": tuple(args.allowed_host or ()) or None,
        "origins": tuple(args.origin or ()) or None,
        "keys": read_keys([Path(each) for each in args.key_file or ()]) or None,
    }
    return Settings(**{name: value for name, value in given.items() if value is not None})
