"""``generate`` and ``infill``: a model continues a prompt, or completes at a cursor."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sc2onnx.bundle import texts
from sc2onnx.cli.attribution_options import attribution_of
from sc2onnx.cli.bundles import loaded, loading
from sc2onnx.cli.common_options import DRAWN
from sc2onnx.cli.constraints import constraint
from sc2onnx.cli.outputs import decode, print_json, read_text
from sc2onnx.cli.terminal import TerminalText, write_generated
from sc2onnx.errors import CursorError, RequestError
from sc2onnx.messages import tell

if TYPE_CHECKING:
    from sc2onnx.attribution import Match
    from sc2onnx.attribution.attribution import Attribution
    from sc2onnx.runtime.engine.streams import Stream
    from sc2onnx.runtime.model import Model
    from sc2onnx.runtime.results import Completion, Piece
    from sc2onnx.runtime.text.fitting import Surroundings


def generate(args: argparse.Namespace) -> int:
    """Run ``generate``."""
    prompt = _prompt(args)
    if args.n is not None and not args.json:
        raise RequestError("--n is for --json, expected both or neither")
    repeats = _Repeats(attribution_of(args), (prompt,))
    model = _model(args)
    options = {**_rules(args), "special_tokens": args.special_tokens}
    if args.n is not None:
        began = time.perf_counter()
        samples = model.generate(prompt, n=args.n, **options)
        seconds = time.perf_counter() - began
        answers = [{**_answer(each, args), **repeats.as_json(each.text)} for each in samples]
        print_json([{**answer, "seconds": seconds} for answer in answers])
        return 0
    stream = model.stream(prompt, **options)
    return _print_stream(stream, args, repeats, echo=prompt if args.echo else "")


def infill(args: argparse.Namespace) -> int:
    """Run ``infill``."""
    from sc2onnx.runtime.text.fitting import LEAST

    text = read_text(args.file)
    offset = cursor_offset(text, args.line, args.column)
    files = {str(path): read_text(path) for path in args.others}
    repeats = _Repeats(attribution_of(args), (text[:offset], text[offset:], *files.values()))
    model = _model(args)
    if args.prompt_tokens is not None and args.prompt_tokens < LEAST:
        raise RequestError(f"--prompt-tokens is {args.prompt_tokens}, expected at least {LEAST}")
    place = {"path": args.path, "repo": args.repo, "files": files, "order": args.order}
    place["prompt_tokens"] = args.prompt_tokens
    stream = model.stream_infill(text[:offset], text[offset:], **place, **_rules(args))
    if stream.used is not None and stream.used.cut:
        tell(_used(stream.used, files, stream.prompt_tokens))
    return _print_stream(stream, args, repeats)


def cursor_offset(text: str, line: int, column: int) -> int:
    r"""Return the offset of a cursor before the character at ``line`` and ``column``.

    Both count from 1, as editors do, and the end of a line is a place too. In ``"ab\ncd"``, line
    2, column 1 is offset 3 and line 2, column 3 is offset 5. Raises :class:`CursorError`.
    """
    lines = text.split("\n")
    if not 1 <= line <= len(lines):
        raise CursorError(f"--line is {line}, expected 1 to {len(lines)}, the lines of the file")
    length = len(lines[line - 1])
    if not 1 <= column <= length + 1:
        raise CursorError(f"--column is {column}, expected 1 to {length + 1} on line {line}")
    return sum(len(before) + 1 for before in lines[: line - 1]) + column - 1


def _used(used: Surroundings, files: Mapping[str, str], tokens: int) -> str:
    """Say how much of the file and of other files is in a prompt that does not hold them all."""
    lines = (used.prefix.count("\n") + 1, used.suffix.count("\n") + 1)
    parts = [f"{lines[0]} lines up to the cursor", f"{lines[1]} from it on"]
    for path, code in files.items():
        kept = used.files.get(path, "")
        if kept != code:
            parts.append(f"{len(kept.splitlines())} of {len(code.splitlines())} lines of {path}")
    return f"using {', '.join(parts[:-1])} and {parts[-1]} ({tokens} tokens)"


def _model(args: argparse.Namespace) -> Model:
    with loading(args.bundle):
        return loaded(args, prefix_memory=0)  # one request a process


_RULES: Final = (*DRAWN, "ends", "heal", "logprobs")
"""Options of the command line that are keywords of ``Model.stream`` as well."""


def _rules(args: argparse.Namespace) -> dict[str, Any]:
    """Return keywords of ``Model.stream`` from the options that generation has."""
    if args.logprobs and not args.json:
        raise RequestError("--logprobs is for --json, expected both or neither")
    return {**{name: getattr(args, name) for name in _RULES}, **constraint(args)}


@dataclass(frozen=True, slots=True)
class _Repeats:
    """Tells which files a completion repeats, but for what it was generated from."""

    attribution: Attribution | None
    prompts: Sequence[str]

    def of(self, text: str) -> list[Match]:
        return [] if self.attribution is None else self.attribution.of(text, self.prompts)

    def as_json(self, text: str) -> dict[str, Any]:
        if self.attribution is None:
            return {}
        return {"attribution": [match.as_json() for match in self.of(text)]}

    def tell(self, text: str) -> None:
        for match in self.of(text):
            tell(f"[{match.told}]")


def _print_stream(
    stream: Stream, args: argparse.Namespace, repeats: _Repeats, echo: str = ""
) -> int:
    began, pieces = time.perf_counter(), list["Piece"]()
    first = None
    screen = TerminalText() if sys.stdout.isatty() else None
    with stream:
        if echo and not args.json:
            write_generated(echo, screen)
        for piece in stream:
            first = time.perf_counter() if first is None else first
            pieces.append(piece)
            if not args.json:
                write_generated(piece.text, screen)
    ended = time.perf_counter()
    if args.json:
        answer = {**_joined(pieces, args), **repeats.as_json(stream.text)}
        print_json({**answer, "seconds": ended - began})
        return 0
    if screen is not None:
        print(screen.flush())
    count = sum(len(piece.tokens) for piece in pieces)
    if sys.stderr.isatty() and first is not None and count > 1:
        rate = (count - 1) / max(ended - first, 1e-9)
        tell(f"[{count} tokens, first after {first - began:.3f} s, then {rate:.1f} per second]")
    repeats.tell(stream.text)
    return 0


def _joined(pieces: list[Piece], args: argparse.Namespace) -> dict[str, Any]:
    """Return the pieces of a stream as JSON has a completion."""
    text = "".join(piece.text for piece in pieces)
    tokens = [token for piece in pieces for token in piece.tokens]
    answer = {"text": text, "tokens": tokens, "finish_reason": pieces[-1].finish_reason}
    logprobs = [value for piece in pieces for value in piece.logprobs or ()]
    return {**answer, "logprobs": logprobs} if args.logprobs else answer


def _answer(done: Completion, args: argparse.Namespace) -> dict[str, Any]:
    """Return a completion as JSON has it."""
    answer = {"text": done.text, "tokens": done.tokens, "finish_reason": done.finish_reason}
    return {**answer, "logprobs": done.logprobs} if args.logprobs else answer


def _prompt(args: argparse.Namespace) -> str:
    if args.file is not None and args.prompt is not None:
        raise RequestError("both a prompt and --file are given, expected one of them")
    if args.file is not None:
        return read_text(args.file)
    if args.prompt is not None and args.prompt != "-":
        return str(args.prompt)
    if sys.stdin is None or (sys.stdin.isatty() and args.prompt is None):
        ways = "give it as an argument, with --file FILE, or on standard input"
        raise RequestError(f"no prompt: {ways}")
    return decode(texts.bounded(sys.stdin.buffer, "standard input"), "standard input")
