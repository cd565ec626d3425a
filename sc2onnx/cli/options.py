"""What the command line accepts. Imports no package but this one."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from sc2onnx import __version__
from sc2onnx.cli.boundary import STATUSES
from sc2onnx.messages import printable

ORDERS: Final = ("psm", "spm")
"""``sc2onnx.runtime.text.FimOrder``, whose room needs tokenizers."""

KERNELS: Final = ("auto", "on", "off")
CACHE_TYPES: Final = ("auto", "int8", "float32")
"""``sc2onnx.runtime.ort.kernels.Use`` and ``CacheType``, whose room needs onnxruntime."""

SHAPES: Final = ("3b", "7b", "15b")
"""Keys of ``sc2onnx.export.shapes.SHAPES``, which only the exporter's packages let us import."""


_DASHES: Final = "\0--"
"""Stands for a value that is ``--`` while argparse is at work, which drops those; no argument of a process can be this."""


class _Parser(argparse.ArgumentParser):
    """A parser whose messages are printable."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and one line, and exit with status 2."""
        super().error(printable(message))


class _Command(_Parser):
    """A command, which takes its options before, between and after its other arguments; ``--`` ends the options.

    argparse gives an optional argument the first place that it can have: in ``BUNDLE --seed 1 PROMPT`` it takes the
    prompt for missing, and then for unknown.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse a command's arguments, in any order."""
        found, rest = super().parse_known_args(self._options_first(list(args or ())), namespace)
        for name, value in vars(found).items():
            setattr(found, name, [_restored(item) for item in value] if isinstance(value, list) else _restored(value))
        return found, rest

    def _options_first(self, given: Sequence[str]) -> list[str]:
        """``BUNDLE --seed 1 PROMPT`` -> ``--seed 1 -- BUNDLE PROMPT``."""
        end = given.index("--") if "--" in given else len(given)
        options, words, expected = list[str](), list[str](), 0.0
        for argument in given[:end]:
            if _is_option(argument):
                expected = 0 if "=" in argument else self._values_of(argument)
                options.append(f"{argument[:-2]}{_DASHES}" if argument.endswith("=--") else argument)
            elif expected:
                expected -= 1
                options.append(argument)
            else:
                words.append(argument)
        words += [_DASHES if argument == "--" else argument for argument in given[end + 1 :]]
        return [*options, "--", *words] if words else options

    def _values_of(self, option: str) -> float:
        """How many values follow an option, which may be abbreviated, at most."""
        found = [action for action in self._actions if any(name.startswith(option) for name in action.option_strings)]
        exact = [action for action in found if option in action.option_strings]
        counts = {"?": 1.0, "*": float("inf"), "+": float("inf")}
        nargs = next((action.nargs for action in (*exact, *found)), 0)
        return 1 if nargs is None else counts.get(str(nargs)) or int(nargs)


def _restored(value: Any) -> Any:
    return type(value)("--") if isinstance(value, (str, Path)) and str(value) == _DASHES else value


def _is_option(argument: str) -> bool:
    """As argparse sees it: a dash alone, a negative number and text with spaces are arguments."""
    return bool(re.match(r"-[^\s]", argument)) and " " not in argument and not re.fullmatch(r"-\d+|-\d*\.\d+", argument)


def parser() -> argparse.ArgumentParser:
    """The whole command line; the chosen command is in ``command``."""
    formatter = argparse.RawDescriptionHelpFormatter
    top = _Parser(prog="sc2onnx", description="Run StarCoder2 outside PyTorch.", epilog=STATUSES, formatter_class=formatter)
    top.add_argument("--version", action="version", version=f"sc2onnx {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Command)

    export = commands.add_parser("export", help="turn a checkpoint into a bundle")
    export.add_argument("checkpoint", help="directory, or hub id such as bigcode/starcoder2-3b")
    export.add_argument("out", type=Path, help="directory to make")
    export.add_argument(
        "--precision",
        default="fp32",
        help="fp32 (the default), int8, int4, int4-fast or a recipe in a .json file; for cuda fp16, bf16, int8 or int4",
    )
    export.add_argument(
        "--target",
        default="cpu",
        help="what it is to run on: cpu, portable (standard operators only), cuda, genai (onnxruntime-genai) or optimum (default: cpu)",
    )
    export.add_argument(
        "--calibration", type=Path, nargs="+", metavar="FILE", help="texts to round with the statistics of (default: code that sc2onnx ships)"
    )
    export.add_argument(
        "--no-calibration",
        action="store_true",
        help="round to the nearest, and lift nothing: a minute instead of hours, at 3.6 times the divergence (docs/quality.md)",
    )
    export.add_argument("--calibration-tokens", type=int, metavar="N", help="how much of the text to use; time is in proportion")
    export.add_argument("--stages", type=int, default=1, metavar="N", help="cut the layers into N graphs, for several devices (default: 1)")
    export.add_argument("--revision", help="branch, tag or commit on the hub")
    _allow_setting(export)
    export.add_argument("--overwrite", action="store_true", help="replace the bundle at OUT")
    export.add_argument("--json", action="store_true", help="print the manifest as JSON")

    verify = commands.add_parser("verify", help="compare a bundle with torch and record the outcome in it")
    verify.add_argument("bundle", type=Path)
    verify.add_argument("checkpoint", help="what the bundle was exported from: directory or hub id")
    verify.add_argument("--json", type=Path, metavar="FILE", help="write every figure to a file")
    verify.add_argument("--text", type=Path, metavar="FILE", help="code to verify on (default: argparse.py of this Python)")
    verify.add_argument("--max-length", type=int, metavar="N", help="compare no more than N tokens")
    verify.add_argument(
        "--kernels", choices=("on", "off"), default="off", help="on: compare the graph for sc2onnx-kernels instead, and record nothing (default: off)"
    )
    verify.add_argument("--greedy", type=int, default=256, metavar="N", help="greedy tokens to compare (default: 256)")

    evaluate = commands.add_parser("evaluate", help="how well bundles predict and infill code, and how far they are from a reference")
    evaluate.add_argument("bundle")
    evaluate.add_argument("files", type=Path, nargs="+", metavar="FILE", help="code to evaluate on, best what the model was not trained on")
    evaluate.add_argument("--against", metavar="REFERENCE", help="a bundle, or a checkpoint in torch (directory or hub id)")
    evaluate.add_argument("--also", action="append", default=[], metavar="BUNDLE", help="another bundle on the same tokens (repeatable)")
    evaluate.add_argument("--length", type=int, metavar="N", help="tokens of a window (default: 1024, or the context if that is less)")
    evaluate.add_argument("--max-tokens", type=int, default=16_384, metavar="N", help="score no more than N, shared by the files (default: 16384)")
    evaluate.add_argument("--infill", type=int, default=0, metavar="N", help="fill in N spans of the files as well (default: 0)")
    evaluate.add_argument("--order", choices=ORDERS, default="psm", help="with --infill: what comes first, prefix or suffix (default: psm)")
    evaluate.add_argument("--seed", type=int, default=0, help="which spans (default: 0)")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write every figure to a file")
    evaluate.add_argument("--plot", type=Path, metavar="FILE", help="draw quality over size: .png, .svg or .pdf")
    _processor_options(evaluate)

    bench = commands.add_parser("bench", help="how fast bundles are: load, first token, prefill, decode over context, memory")
    bench.add_argument("bundle")
    bench.add_argument("--also", action="append", default=[], metavar="BUNDLE", help="another bundle, in turns with it (repeatable)")
    bench_options(bench)
    bench.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1, the second GPU (default: cpu)")

    generate = commands.add_parser("generate", help="continue a prompt")
    generate.add_argument("bundle", help="directory or hub id")
    generate.add_argument("prompt", nargs="?", help="the prompt; '-' or nothing reads standard input")
    generate.add_argument("--file", type=Path, help="read the prompt from a file")
    generate.add_argument("--echo", action="store_true", help="print the prompt first")
    generate.add_argument("--n", type=int, metavar="N", help="with --json: so many samples, as a list")
    generate.add_argument(
        "--special-tokens",
        choices=("parse", "text"),
        default="parse",
        help="whether <fim_prefix> and its like in the prompt are special tokens, or text (default: parse)",
    )
    _generation_options(generate)

    infill = commands.add_parser("infill", help="complete at a cursor in a file")
    infill.add_argument("bundle", help="directory or hub id")
    infill.add_argument("file", type=Path)
    infill.add_argument("--line", type=int, required=True, help="line of the cursor, from 1")
    infill.add_argument("--column", type=int, required=True, help="column of the cursor, from 1: 1 is before the first character")
    infill.add_argument("--path", help="path of the file in its repository, as context")
    infill.add_argument("--repo", help="name of the repository, as context")
    infill.add_argument("--context", type=Path, action="append", default=[], metavar="FILE", help="another file of the repository (repeatable)")
    infill.add_argument("--order", choices=ORDERS, default="psm", help="what comes first in the prompt, prefix or suffix (default: psm)")
    infill.add_argument(
        "--prompt-tokens", type=int, metavar="N", help="the most tokens of the prompt (default: as many as the model's context takes)"
    )
    _generation_options(infill)

    info = commands.add_parser("info", help="what a bundle is and the memory it needs; --plan: what exporting a checkpoint would take")
    info.add_argument("bundle", nargs="?", help="a bundle, or with --plan a checkpoint: directory or hub id")
    info.add_argument("--plan", action="store_true", help="before any work: size, memory and disk of every precision")
    info.add_argument("--shape", choices=SHAPES, help="with --plan: a published StarCoder2 instead of a checkpoint")
    info.add_argument("--revision", help="of a hub id: branch, tag or commit")
    _allow_setting(info)
    info.add_argument("--context", type=int, metavar="N", help="memory at so many tokens (default: the model's context; with --plan: 1k, 4k, 16k)")
    info.add_argument("--json", action="store_true")

    warm = commands.add_parser("warm", help="keep a quantised bundle's weights as sc2onnx-kernels reads them, so that it starts fast")
    warm.add_argument("bundle", help="directory or hub id")
    warm.add_argument("--revision", help="of a hub id: branch, tag or commit")

    push = commands.add_parser("push", help="put a bundle on the Hugging Face hub, with its model card")
    push.add_argument("bundle", type=Path)
    push.add_argument("repo", help="OWNER/NAME, made if there is none")
    push.add_argument("--private", action="store_true", default=None, help="where the repository is made, for its owner only")
    push.add_argument("--revision", help="another branch than main, made if there is none")
    push.add_argument("--message", help="of the commit")
    push.add_argument("--json", action="store_true")

    doctor = commands.add_parser("doctor", help="what works on this machine, and what is missing")
    doctor.add_argument("--json", action="store_true")
    return top


def _allow_setting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-setting",
        action="append",
        default=[],
        metavar="KEY",
        help="vouch that a setting of config.json that is unknown here changes nothing (repeatable)",
    )


def bench_options(parser: argparse.ArgumentParser) -> None:
    """What ``benchmarks/speed.py`` takes as well."""
    parser.add_argument("--contexts", type=int, nargs="+", metavar="N", help="decode at so many tokens (default: 64 1024 4096 8192 16384)")
    parser.add_argument("--steps", type=int, nargs="*", default=[1, 2, 4, 8, 16], metavar="N", help="steps of so many tokens (default: 1 2 4 8 16)")
    parser.add_argument("--prefill", type=int, nargs="*", metavar="N", help="prompts of so many tokens (default: 512)")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="rounds (default: 5)")
    parser.add_argument("--real-prefill", action="store_true", help="compute up to each context, for minutes, instead of placing the sequence")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round to a file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw decoding over context: .png, .svg or .pdf")
    _processor_options(parser)


def _generation_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--revision", help="of a hub id: branch, tag or commit")
    parser.add_argument("--max-new-tokens", type=int, default=128, metavar="N")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (the default)")
    parser.add_argument("--top-k", type=int, default=0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--min-p", type=float, default=0.0)
    parser.add_argument("--repetition-penalty", type=float, default=1.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text (repeatable)")
    parser.add_argument("--heal", action="store_true", help="where the prompt stops inside a word, choose the tokens of its end again")
    parser.add_argument("--logprobs", action="store_true", help="with --json: log probability of each token")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of streaming")
    parser.add_argument(
        "--speculate",
        action=argparse.BooleanOptionalAction,
        help="compute ahead what the text suggests (default: where that cannot change a token)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (the second GPU) or auto (default: cpu)")
    parser.add_argument("--device-map", nargs="+", metavar="DEVICE", help="one for each stage of a bundle that is cut, instead of --device")
    _processor_options(parser)


def _processor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--kernels", choices=KERNELS, default="auto", help="whether int8 and int4 run on sc2onnx-kernels (default: where that is installed)"
    )
    parser.add_argument("--cache-type", choices=CACHE_TYPES, default="auto", help="what the kernels keep of keys and values (default: int8)")
