"""What the commands that serve accept. Imports no package but this one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from sc2onnx.cli import attribution_options
from sc2onnx.cli import common_options as common

MODES: Final = ("auto", "line", "block", "free")
"""``sc2onnx.serve.lsp.options.Mode``, whose room is the extra's."""


def serve(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``serve``. No option has a default: what is not given may be in the
    file or the environment.
    """
    bundle = f"{common.BUNDLE}; may be in the file instead"
    parser.add_argument("bundle", nargs="?", help=bundle)
    alias = "what the bundle is called (default: its directory's name)"
    parser.add_argument("--alias", metavar="NAME", help=alias)
    other = "another bundle, and what it is called (repeatable)"
    parser.add_argument("--model", action="append", metavar="NAME=BUNDLE", help=other)
    adapter = "a LoRA adapter; of the first bundle, and which model it goes as (repeatable)"
    parser.add_argument("--adapter", action="append", metavar="NAME=DIR", help=adapter)
    file = "a TOML file with what the flags say and more (docs/serving.md)"
    parser.add_argument("--config", type=Path, metavar="FILE", help=file)
    check = "say what would be served and where, and end"
    parser.add_argument("--check", action="store_true", help=check)
    _listening(parser)
    _bounds(parser)
    _answers(parser)
    _log(parser)
    prompts = "log what requests go on from (default: no)"
    output = common.grouped(parser, "output")
    output.add_argument("--log-prompts", action=argparse.BooleanOptionalAction, help=prompts)
    attribution_options.marking(parser, configured=True)
    common.device(parser, None)
    common.speculate(parser)
    common.max_batch(parser, None)
    common.prefix_memory(parser, "of 16 files, in a quarter of free memory")
    common.processor_options(parser)
    parser.set_defaults(kernels=None, cache_type=None)


def _listening(parser: argparse.ArgumentParser) -> None:
    group = common.grouped(parser, "listening")
    host = "where to listen (default: 127.0.0.1; others need a key)"
    group.add_argument("--host", metavar="ADDRESS", help=host)
    port = "where to listen; 0: any that is free (default: 8012)"
    group.add_argument("--port", type=int, metavar="N", help=port)
    keys = "each request must bring one (repeatable)"
    common.key_files(parser, "listening", keys, action="append")
    hosts = "a name that the server goes by, besides this machine's own (repeatable)"
    group.add_argument("--allowed-host", action="append", metavar="NAME", help=hosts)
    origins = "a web page that may ask, as https://HOST (repeatable)"
    group.add_argument("--origin", action="append", metavar="ORIGIN", help=origins)


def _bounds(parser: argparse.ArgumentParser) -> None:
    group = common.grouped(parser, "limits")
    waiting = "requests under way, beyond which others are told to come later (default: 64)"
    group.add_argument("--waiting", type=int, metavar="N", help=waiting)
    queue = "seconds that a request waits at most for its first step (default: 30)"
    group.add_argument("--queue-seconds", type=float, metavar="SECONDS", help=queue)
    most = "tokens that a request may ask for (default: 4096)"
    group.add_argument("--most-tokens", type=int, metavar="N", help=most)
    prompts = "prompts that a request may have (default: 16)"
    group.add_argument("--most-prompts", type=int, metavar="N", help=prompts)
    samples = "samples of each prompt that a request may ask for (default: 8)"
    group.add_argument("--most-samples", type=int, metavar="N", help=samples)
    _drain(parser)


def _answers(parser: argparse.ArgumentParser) -> None:
    page = "show a page at / to try it with (default: yes)"
    parser.add_argument("--page", action=argparse.BooleanOptionalAction, help=page)
    parts = "take prompts apart that spell fill-in-the-middle tokens out, for reuse (default: yes)"
    parser.add_argument("--rewrite-fim", action=argparse.BooleanOptionalAction, help=parts)
    heal = f"{common.HEAL} (default: yes)"
    parser.add_argument("--heal", action=argparse.BooleanOptionalAction, help=heal)
    workers = "processes that serve, each on cores of its own and with its files (default: 1)"
    parser.add_argument("--workers", type=int, metavar="N", help=workers)


def _drain(parser: argparse.ArgumentParser) -> None:
    drain = "seconds that requests have to end in when the server does (default: 10)"
    group = common.grouped(parser, "limits")
    group.add_argument("--drain-seconds", type=float, metavar="SECONDS", help=drain)


def _log(parser: argparse.ArgumentParser) -> None:
    group = common.grouped(parser, "output")
    look = "how lines of the log look (default: text)"
    group.add_argument("--log", choices=("text", "json"), help=look)
    traces = "send traces of requests, by the OTEL_* variables, or print them (default: off)"
    group.add_argument("--traces", choices=("off", "otlp", "console"), help=traces)


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
    _log(parser)


def lsp(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``lsp``."""
    parser.add_argument("bundle", nargs="?", help=f"{common.BUNDLE}; nothing with --server")
    server = "a server to ask; sc2onnx serve, or llama.cpp's, instead of a bundle"
    parser.add_argument("--server", metavar="URL", help=server)
    common.key_files(parser, "options", "the first is the one that the server asks for")
    common.max_new_tokens(parser)
    mode = "where completions end: with the block or line, anywhere, or by what follows (auto)"
    parser.add_argument("--mode", choices=MODES, default="auto", help=mode)
    late = "seconds after which what there is by then is taken (default: 10)"
    parser.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help=late)
    others = "other open documents that go into a prompt (default: 8)"
    parser.add_argument("--neighbours", type=int, default=8, metavar="N", help=others)
    attribution_options.marking(parser)
    common.prefix_memory(parser, "two of full length")
    common.device(parser)
    common.processor_options(parser)
