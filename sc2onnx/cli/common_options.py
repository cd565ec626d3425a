"""Options that several commands have, each declared once; benchmarks use some as well."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

KERNELS: Final = ("auto", "on", "off")
CACHE_TYPES: Final = ("auto", "int8", "float32")
"""``sc2onnx.runtime.ort.kernels.Use`` and ``CacheType``, whose room needs onnxruntime."""

ORDERS: Final = ("psm", "spm")
"""``sc2onnx.runtime.text.fim.FimOrder``, whose room needs tokenizers."""

ENDINGS: Final = ("line", "block", "balanced")
"""``sc2onnx.runtime.text.endings.Ending``, whose room needs numpy."""

BUNDLE: Final = "a bundle: directory or hub id"
HEAL: Final = "complete a word that the prompt stops inside as if it were whole"


def grouped(parser: argparse.ArgumentParser, title: str) -> argparse._ArgumentGroup:
    """Return the group of options with a title, which is made when it is first asked for."""
    for found in parser._action_groups:
        if found.title == title:
            return found
    return parser.add_argument_group(title)


def also(parser: argparse.ArgumentParser, more: str) -> None:
    """Add ``--also``, for other bundles; ``more`` says what is done with them."""
    summary = f"another bundle; {more} (repeatable)"
    parser.add_argument("--also", action="append", default=[], metavar="BUNDLE", help=summary)


def revision(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Add ``--revision``, of a hub id."""
    summary = f"branch, tag or commit on the hub{more}"
    parser.add_argument("--revision", metavar="NAME", help=summary)


def allow_setting(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-setting``, which can be repeated."""
    vouched = "vouch that an unknown setting of config.json changes nothing (repeatable)"
    parser.add_argument("--allow-setting", action="append", default=[], metavar="KEY", help=vouched)


def adapter(parser: argparse.ArgumentParser, more: str) -> None:
    """Add ``--adapter``, which can be repeated; ``more`` says what is done with one."""
    summary = f"a LoRA adapter; as peft saves it, or its hub id: {more} (repeatable)"
    group = grouped(parser, "adapters")
    group.add_argument("--adapter", action="append", default=[], metavar="DIR", help=summary)


def context(parser: argparse.ArgumentParser, more: str, **how: Any) -> None:
    """Add ``--context``, a number of tokens to look at, or with ``nargs`` several."""
    summary = f"look at so many tokens of context; {more}"
    parser.add_argument("--context", type=int, metavar="N", help=summary, **how)


def length(parser: argparse.ArgumentParser, more: str) -> None:
    """Add ``--length``, of the longest sequence."""
    summary = f"the most tokens of a sequence that is computed; {more}"
    parser.add_argument("--length", type=int, metavar="N", help=summary)


def scoring_options(parser: argparse.ArgumentParser, more: str) -> None:
    """Add what an evaluation measures; ``more`` says of what it scores so many tokens."""
    length(parser, "windows have so many (default: 1024, or the context if that is less)")
    scored = f"score at most N tokens; {more} (default: 16384)"
    parser.add_argument("--score-tokens", type=int, default=16_384, metavar="N", help=scored)
    spans = "fill in N spans as well (default: 0)"
    parser.add_argument("--infill", type=int, default=0, metavar="N", help=spans)


def order(parser: argparse.ArgumentParser) -> None:
    """Add ``--order``, of a prompt's parts."""
    summary = "what comes first in an infilling prompt, prefix or suffix (default: psm)"
    parser.add_argument("--order", choices=ORDERS, default="psm", help=summary)


def prompt_tokens(parser: argparse.ArgumentParser) -> None:
    """Add ``--prompt-tokens``, of an infilling prompt."""
    summary = "the most tokens of an infilling prompt (default: what the context takes)"
    parser.add_argument("--prompt-tokens", type=int, metavar="N", help=summary)


def run_adapter(parser: argparse.ArgumentParser) -> None:
    """Add ``--adapter``, which a bundle is run with."""
    summary = "a LoRA adapter; as `sc2onnx adapter convert` makes it: run with it"
    parser.add_argument("--adapter", metavar="DIR", help=summary)


def special_tokens(parser: argparse.ArgumentParser) -> None:
    """Add ``--special-tokens``, of a prompt that is continued."""
    parser.add_argument(
        "--special-tokens",
        choices=("parse", "text"),
        default="parse",
        help="read <fim_prefix> and its like in a prompt as tokens, or as text (default: parse)",
    )


def json_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``: the result on standard output, for a program."""
    summary = "print the result as JSON on standard output"
    grouped(parser, "output").add_argument("--json", action="store_true", help=summary)


def quiet(parser: argparse.ArgumentParser) -> None:
    """Add ``--quiet``, for what tells how far it is."""
    summary = "show no progress"
    grouped(parser, "output").add_argument("--quiet", action="store_true", help=summary)


def figures_options(parser: argparse.ArgumentParser, picture: str = "") -> None:
    """Add the options of measurements for their figures; ``picture`` says what a plot shows."""
    json_option(parser)
    group = grouped(parser, "output")
    saved = "write every figure to a file, as JSON"
    group.add_argument("--save", type=Path, metavar="FILE", help=saved)
    if picture:
        drawn = f"draw a picture, .png, .svg or .pdf; {picture}"
        group.add_argument("--plot", type=Path, metavar="FILE", help=drawn)
    quiet(parser)


def bench_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench``, which ``benchmarks/speed.py`` takes as well."""
    default = "decode there (default: 64 1024 4096 8192 16384)"
    context(parser, default, nargs="+")
    steps = "compute steps of so many tokens (default: 1 2 4 8 16)"
    usual = [1, 2, 4, 8, 16]
    parser.add_argument("--steps", type=int, nargs="*", default=usual, metavar="N", help=steps)
    prefill = "compute prompts of so many tokens (default: 512)"
    parser.add_argument("--prefill", type=int, nargs="*", metavar="N", help=prefill)
    rounds = "measure in so many rounds (default: 5)"
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help=rounds)
    real = "compute up to each context, for minutes, instead of placing the sequence"
    parser.add_argument("--real-prefill", action="store_true", help=real)
    figures_options(parser, "time of decoding over context")
    processor_options(parser)


def max_new_tokens(parser: argparse.ArgumentParser, default: int = 128) -> None:
    """Add ``--max-new-tokens``, by both of its names."""
    summary = f"the most tokens to generate (default: {default})"
    names = ("--max-new-tokens", "--max-tokens")
    group = grouped(parser, "generation")
    group.add_argument(*names, type=int, default=default, metavar="N", help=summary)


def stop(parser: argparse.ArgumentParser) -> None:
    """Add ``--stop``, which can be repeated."""
    summary = "end before this text (repeatable)"
    repeated: dict[str, Any] = {"action": "append", "default": [], "metavar": "TEXT"}
    grouped(parser, "generation").add_argument("--stop", help=summary, **repeated)


DRAWN: Final = (
    "max_new_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "seed",
    "stop",
    "adapter",
)
"""Options that are keywords of every way to ask a model, by the names that both have."""


def drawing_options(parser: argparse.ArgumentParser, seed: int | None = None) -> None:
    """Add the options that say how tokens are drawn, and where a text ends."""
    max_new_tokens(parser)
    stop(parser)
    group = grouped(parser, "generation")
    ends = (
        "end with the cursor's line, its block or its brackets, before code that is there already"
    )
    group.add_argument("--ends", choices=ENDINGS, help=ends)
    heal = f"{HEAL} (default: no)"
    group.add_argument("--heal", action="store_true", help=heal)
    logprobs = "give the log probability of each token, in JSON"
    group.add_argument("--logprobs", action="store_true", help=logprobs)
    constraint_options(parser)
    sampling_options(parser, seed)


def constraint_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which texts are allowed."""
    group = grouped(parser, "constraint, one at most")
    schema = "give JSON that the JSON schema in this file allows"
    group.add_argument("--json-schema", type=Path, metavar="FILE", help=schema)
    grammar = "give a text of the grammar in this file, in Lark's syntax or llama.cpp's GBNF"
    group.add_argument("--grammar", type=Path, metavar="FILE", help=grammar)
    regex = "give a text that this regular expression matches from end to end"
    group.add_argument("--regex", metavar="REGEX", help=regex)
    choice = "give this text, or that of another --choice (repeatable)"
    repeated: dict[str, Any] = {"action": "append", "dest": "choices", "metavar": "TEXT"}
    group.add_argument("--choice", help=choice, **repeated)


def sampling_options(parser: argparse.ArgumentParser, seed: int | None = None) -> None:
    """Add the options that say how tokens are drawn."""
    group = grouped(parser, "sampling")
    hot = "divide logits by T: the lower, the likelier the tokens (default: 0, greedy)"
    group.add_argument("--temperature", type=float, default=0.0, metavar="T", help=hot)
    top_k = "draw from the K likeliest tokens (default: 0, all of them)"
    group.add_argument("--top-k", type=int, default=0, metavar="K", help=top_k)
    top_p = "draw from the likeliest tokens that have probability P together (default: 1)"
    group.add_argument("--top-p", type=float, default=1.0, metavar="P", help=top_p)
    min_p = "leave out tokens below P times the likeliest one's probability (default: 0)"
    group.add_argument("--min-p", type=float, default=0.0, metavar="P", help=min_p)
    again = "make tokens less likely that are there already (default: 1, off)"
    group.add_argument("--repetition-penalty", type=float, default=1.0, metavar="R", help=again)
    seed_option(parser, seed)


def seed_option(parser: argparse.ArgumentParser, default: int | None) -> None:
    """Add ``--seed``, of whatever is drawn at random."""
    usual = "another one each time" if default is None else str(default)
    summary = f"the number that random choices follow from (default: {usual})"
    group = grouped(parser, "sampling")
    group.add_argument("--seed", type=int, default=default, metavar="N", help=summary)


def generation_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that generate text."""
    revision(parser)
    drawing_options(parser)
    json_option(parser)
    device_options(parser)


def device_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say on what a model runs, and whether it guesses ahead."""
    device(parser)
    group = grouped(parser, "device")
    devices = "run each stage of a bundle that is cut on its own, instead of --device"
    group.add_argument("--device-map", nargs="+", metavar="DEVICE", help=devices)
    speculate(parser)
    processor_options(parser)


def device(parser: argparse.ArgumentParser, default: str | None = "cpu") -> None:
    """Add ``--device``; a ``default`` of None leaves it to a file or the environment."""
    summary = "run on cpu, cuda, cuda:1 (the second GPU) or auto (default: cpu)"
    group = grouped(parser, "device")
    group.add_argument("--device", default=default, metavar="DEVICE", help=summary)


def speculate(parser: argparse.ArgumentParser) -> None:
    """Add ``--speculate`` and ``--no-speculate``."""
    grouped(parser, "device").add_argument(
        "--speculate",
        action=argparse.BooleanOptionalAction,
        help="compute tokens ahead that the text suggests (default: where no token changes)",
    )


def max_batch(parser: argparse.ArgumentParser, default: int | None) -> None:
    """Add ``--max-batch``."""
    summary = "compute so many requests or rows together (default: 8)"
    group = grouped(parser, "device")
    group.add_argument("--max-batch", type=int, default=default, metavar="N", help=summary)


def prefix_memory(parser: argparse.ArgumentParser, usual: str) -> None:
    """Add ``--prefix-memory``; ``usual`` says how much is kept by default."""
    summary = f"bytes of finished caches to keep for texts that begin alike (default: {usual})"
    group = grouped(parser, "device")
    group.add_argument("--prefix-memory", type=int, metavar="BYTES", help=summary)


def key_files(parser: argparse.ArgumentParser, title: str, more: str, **how: Any) -> None:
    """Add ``--key-file`` to a group; ``more`` says who needs one of the keys."""
    summary = f"a file of keys, one a line; {more}"
    grouped(parser, title).add_argument("--key-file", metavar="FILE", help=summary, **how)


def processor_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what computes, and how."""
    group = grouped(parser, "device")
    threads = "compute with so many threads (default: one for each processor)"
    group.add_argument("--threads", type=int, metavar="N", help=threads)
    group.add_argument(
        "--kernels",
        choices=KERNELS,
        default="auto",
        help="run int8 and int4 on sc2onnx-kernels; auto: where that is installed (default: auto)",
    )
    kept = "what the kernels keep keys and values in (default: auto, which is int8)"
    group.add_argument("--cache-type", choices=CACHE_TYPES, default="auto", help=kept)
