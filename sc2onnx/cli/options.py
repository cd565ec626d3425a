"""The parser of the whole command line. Imports no package but this one."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from sc2onnx import __version__
from sc2onnx.cli import attribution_options
from sc2onnx.cli import common_options as common
from sc2onnx.cli.boundary import STATUSES
from sc2onnx.cli.parsing import CommandParser, Fill, Help, Parser
from sc2onnx.cli.usage import COMMANDS

SHELLS: Final = ("bash", "zsh", "fish")


def parser() -> Parser:
    """Return the parser of the whole command line; the chosen command is in ``command``."""
    top = Parser(
        prog="sc2onnx",
        usage="%(prog)s COMMAND ...",
        description=_WHAT,
        epilog=f"{_BEGIN}\n\n{STATUSES}",
        formatter_class=Help,
    )
    top.add_argument("--version", action="version", version=f"sc2onnx {__version__}")
    commands = top.add_subparsers(
        dest="command",
        prog="sc2onnx",
        title="commands",
        metavar="COMMAND",
        parser_class=CommandParser,
    )
    for name, command in COMMANDS.items():
        made = commands.add_parser(
            name,
            help=command.summary,
            description=command.description,
            epilog=command.shown,
            formatter_class=Help,
        )
        _fill(made, name)
        made.usage = made.short_usage()
    return top


_WHAT: Final = "Run StarCoder2 outside PyTorch: export it to a bundle, complete and infill code."

_BEGIN: Final = """\
example:
  sc2onnx export bigcode/starcoder2-3b starcoder2-3b
  sc2onnx generate starcoder2-3b "def fib(n):" --max-new-tokens 64

`sc2onnx COMMAND --help` shows what a command takes, with an example."""


def _generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", help=common.BUNDLE)
    prompt = "the text to continue; '-' or nothing reads standard input"
    parser.add_argument("prompt", nargs="?", help=prompt)
    read = "read the prompt from a file"
    parser.add_argument("--file", type=Path, metavar="FILE", help=read)
    common.special_tokens(parser)
    common.run_adapter(parser)
    common.generation_options(parser)
    attribution_options.marking(parser)
    output = common.grouped(parser, "output")
    output.add_argument("--echo", action="store_true", help="print the prompt first")
    samples = "draw so many samples, a list; with --json"
    output.add_argument("--n", type=int, metavar="N", help=samples)


def _infill(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", help=common.BUNDLE)
    parser.add_argument("file", type=Path, help="the file that the cursor is in")
    line = "line of the cursor, from 1"
    parser.add_argument("--line", type=int, required=True, metavar="N", help=line)
    column = "column of the cursor, from 1: 1 is before the first character"
    parser.add_argument("--column", type=int, required=True, metavar="N", help=column)
    path = "path of the file in its repository, for the prompt"
    parser.add_argument("--path", metavar="PATH", help=path)
    repo = "name of the repository, for the prompt"
    parser.add_argument("--repo", metavar="NAME", help=repo)
    other = "another file of the repository, for the prompt (repeatable)"
    repeated: dict[str, Any] = {"action": "append", "default": [], "metavar": "FILE"}
    parser.add_argument("--with", dest="others", type=Path, help=other, **repeated)
    common.order(parser)
    common.prompt_tokens(parser)
    common.run_adapter(parser)
    common.generation_options(parser)
    attribution_options.marking(parser)


def _chat(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", help=common.BUNDLE)
    message = "a single message; '-' or nothing reads standard input, or begins a conversation"
    parser.add_argument("message", nargs="?", help=message)
    system = "say first how the model is to answer, in a system message"
    parser.add_argument("--system", metavar="TEXT", help=system)
    lines = "take each line of standard input as a message (default: all of it as one)"
    parser.add_argument("--lines", action="store_true", help=lines)
    template = "use the chat template of this name (default: default)"
    parser.add_argument("--template", metavar="NAME", help=template)
    common.special_tokens(parser)
    common.revision(parser)
    common.run_adapter(parser)
    common.max_new_tokens(parser, 1024)
    common.stop(parser)
    common.constraint_options(parser)
    common.sampling_options(parser)
    common.json_option(parser)
    common.device_options(parser)


def _info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", help=common.BUNDLE)
    common.context(parser, "memory to run there (default: the model's context)")
    common.revision(parser)
    common.json_option(parser)


def _adapter(parser: argparse.ArgumentParser) -> None:
    action = "convert one, or say what a converted one is"
    parser.add_argument("action", choices=("convert", "info"), help=action)
    given = "peft's directory or hub id to convert; or the directory of a converted one"
    parser.add_argument("adapter", help=given)
    made = "the directory to make, for convert"
    parser.add_argument("out", nargs="?", type=Path, help=made)
    half = "write half-precision numbers, for other programs' graphs of half precision"
    parser.add_argument("--half", action="store_true", help=half)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what is at OUT; an adapter alone"
    )
    common.json_option(parser)


def _warm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", help=common.BUNDLE)
    common.revision(parser)
    common.json_option(parser)
    common.quiet(parser)


def _push(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="a bundle: directory")
    parser.add_argument("repo", help="OWNER/NAME on the hub, made if there is none")
    private = "make the repository for its owner only, where it is made"
    parser.add_argument("--private", action="store_true", default=None, help=private)
    common.revision(parser, "; a branch, made if there is none (default: main)")
    message = "of the commit (default: the bundle's precision and target)"
    parser.add_argument("--message", metavar="TEXT", help=message)
    common.json_option(parser)


def _completion(parser: argparse.ArgumentParser) -> None:
    shell = "the shell that is to complete commands and options"
    parser.add_argument("shell", choices=SHELLS, help=shell)


_FILL: Final[dict[str, tuple[str, str]]] = {
    "export": ("export_options", "export"),
    "plan": ("export_options", "plan"),
    "verify": ("measuring_options", "verify"),
    "evaluate": ("measuring_options", "evaluate"),
    "bench": ("measuring_options", "bench"),
    "batch": ("batch_options", "batch_options"),
    "serve": ("serving_options", "serve"),
    "route": ("serving_options", "route"),
    "lsp": ("serving_options", "lsp"),
}
"""Command -> module and function that add its arguments; the runtime alone has not these."""

_HERE: Final[dict[str, Fill]] = {
    "generate": _generate,
    "infill": _infill,
    "chat": _chat,
    "attribution": attribution_options.command,
    "adapter": _adapter,
    "info": _info,
    "warm": _warm,
    "push": _push,
    "doctor": common.json_option,
    "completion": _completion,
}
"""Command -> what adds its arguments, for what the runtime alone can do as well."""


def _fill(made: CommandParser, name: str) -> None:
    """Add the arguments of a command; one that this installation lacks says so when it is given."""
    if name in _HERE:
        _HERE[name](made)
        return
    module, function = _FILL[name]
    try:
        add: Fill = getattr(import_module(f"sc2onnx.cli.{module}"), function)
    except ModuleNotFoundError as error:
        made.lacking = error
        return
    add(made)
