"""What the commands that serve accept. Imports no package but this one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from sc2onnx.cli.common_options import processor_options

MODES: Final = ("auto", "line", "block", "free")
"""``sc2onnx.serve.lsp.options.Mode``, whose room is the extra's."""


def serve(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``serve``. No option has a default: what is not given may be in the
    file or the environment.
    """
    parser.add_argument("bundle", nargs="?", help="directory or hub id; may be in the file instead")
    parser.add_argument("--alias", metavar="NAME", help="what the bundle is called (default: its directory's name)")
    other = "another bundle, and what it is called (repeatable)"
    parser.add_argument("--model", action="append", metavar="NAME=BUNDLE", help=other)
    file = "a TOML file with what the flags say and more (docs/serving.md)"
    parser.add_argument("--config", type=Path, metavar="FILE", help=file)
    check = "say what would be served and where, and end"
    parser.add_argument("--check", action="store_true", help=check)
    _listening(parser)
    _bounds(parser)
    _log(parser)
    prompts = "log what requests go on from (default: no)"
    parser.add_argument("--log-prompts", action=argparse.BooleanOptionalAction, help=prompts)
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or auto (default: cpu)")
    processor_options(parser)
    parser.set_defaults(kernels=None, cache_type=None)


def _listening(parser: argparse.ArgumentParser) -> None:
    host = "where to listen (default: 127.0.0.1; others need a key)"
    parser.add_argument("--host", help=host)
    parser.add_argument("--port", type=int, help="0: any that is free (default: 8012)")
    keys = "keys, one a line, one of which each request must bring (repeatable)"
    parser.add_argument("--key-file", action="append", metavar="FILE", help=keys)
    hosts = "a name that the server goes by, besides this machine's own (repeatable)"
    parser.add_argument("--allowed-host", action="append", metavar="NAME", help=hosts)
    origins = "a web page that may ask, as https://HOST (repeatable)"
    parser.add_argument("--origin", action="append", metavar="ORIGIN", help=origins)


def _bounds(parser: argparse.ArgumentParser) -> None:
    waiting = "requests under way, beyond which others are told to come later (default: 64)"
    parser.add_argument("--waiting", type=int, metavar="N", help=waiting)
    queue = "what a request waits at most for its first step (default: 30)"
    parser.add_argument("--queue-seconds", type=float, metavar="SECONDS", help=queue)
    most = "tokens that a request may ask for (default: 4096)"
    parser.add_argument("--most-tokens", type=int, metavar="N", help=most)
    prompts = "prompts that a request may have (default: 16)"
    parser.add_argument("--most-prompts", type=int, metavar="N", help=prompts)
    samples = "samples of each prompt that a request may ask for (default: 8)"
    parser.add_argument("--most-samples", type=int, metavar="N", help=samples)
    _drain(parser)
    page = "show a page at / to try it with (default: yes)"
    parser.add_argument("--page", action=argparse.BooleanOptionalAction, help=page)
    _traces(parser)
    heal = "complete a cursor inside a word as if the word were whole (default: yes)"
    parts = "take prompts apart that spell fill-in-the-middle tokens out, for reuse (default: yes)"
    parser.add_argument("--rewrite-fim", action=argparse.BooleanOptionalAction, help=parts)
    parser.add_argument("--heal", action=argparse.BooleanOptionalAction, help=heal)
    workers = "processes that serve, each on cores of its own and with its files (default: 1)"
    parser.add_argument("--workers", type=int, metavar="N", help=workers)
    batch = "requests that are computed together (default: 8)"
    parser.add_argument("--max-batch", type=int, metavar="N", help=batch)
    memory = "bytes of finished requests' caches to keep (default: of 16 files, in a quarter of free memory)"
    parser.add_argument("--prefix-memory", type=int, metavar="BYTES", help=memory)
    speculate = "compute tokens ahead that the text suggests (default: where that changes no token)"
    parser.add_argument("--speculate", action=argparse.BooleanOptionalAction, help=speculate)


def _drain(parser: argparse.ArgumentParser) -> None:
    drain = "what requests have to end in when the server does (default: 10)"
    parser.add_argument("--drain-seconds", type=float, metavar="SECONDS", help=drain)


def _traces(parser: argparse.ArgumentParser) -> None:
    traces = "send traces of requests, by the OTEL_* variables, or print them (default: off)"
    parser.add_argument("--traces", choices=("off", "otlp", "console"), help=traces)


def _log(parser: argparse.ArgumentParser) -> None:
    look = "how lines of the log look (default: text)"
    parser.add_argument("--log", choices=("text", "json"), help=look)


def route(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``route``."""
    member = "a server: http://HOST:PORT, or several, as http://engine-{0..3}:8012 (repeatable)"
    parser.add_argument("--member", action="append", default=[], metavar="URL", help=member)
    found = "a name with an address of each server, looked up again and again"
    parser.add_argument("--discover", metavar="HOST:PORT", help=found)
    slots = "requests that a server computes together, beyond which others are asked (default: 8)"
    parser.add_argument("--slots", type=int, default=8, metavar="N", help=slots)
    _listening(parser)
    _drain(parser)
    _traces(parser)
    _log(parser)


def lsp(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``lsp``."""
    parser.add_argument("bundle", nargs="?", help="directory or hub id; nothing with --server")
    server = "ask a server instead: sc2onnx serve, or llama.cpp's"
    parser.add_argument("--server", metavar="URL", help=server)
    key = "holds the key that the server wants"
    parser.add_argument("--key-file", type=Path, metavar="FILE", help=key)
    tokens = "the most of a completion (default: 128)"
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help=tokens)
    mode = "where completions end: with the block, the line, anywhere, or by what follows (auto)"
    parser.add_argument("--mode", choices=MODES, default="auto", help=mode)
    late = "after so long what there is by then is taken (default: 10)"
    parser.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help=late)
    others = "other open documents that go into a prompt (default: 8)"
    parser.add_argument("--neighbours", type=int, default=8, metavar="N", help=others)
    memory = "bytes of finished requests' caches to keep (default: two of full length)"
    parser.add_argument("--prefix-memory", type=int, metavar="BYTES", help=memory)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 or auto (default: cpu)")
    processor_options(parser)
