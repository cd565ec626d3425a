"""The command line: parse, call, print. Each subcommand imports only its own side.

Exit status: 0 done; 1 the answer is no (verification failed, nothing works here); 2 a mistake of the user, in one line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from sc2onnx import __version__
from sc2onnx.errors import CursorError, RequestError, Sc2onnxError

if TYPE_CHECKING:
    from sc2onnx.runtime.generate import Piece, Stream
    from sc2onnx.runtime.model import Model


def entry() -> NoReturn:
    """The ``sc2onnx`` command."""
    raise SystemExit(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    parsed = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = parsed.run
    try:
        with _quiet_warnings(), _terminated_is_exit():
            return run(parsed)
    except Sc2onnxError as error:
        print(f"sc2onnx {parsed.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has gone: so may we
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"sc2onnx {parsed.command}: interrupted", file=sys.stderr)
        return 130


def _export(args: argparse.Namespace) -> int:
    from sc2onnx.export import export
    from sc2onnx.export.progress import for_stream

    began = time.perf_counter()
    manifest = export(args.checkpoint, args.out, precision=args.precision, revision=args.revision, overwrite=args.overwrite, progress=for_stream())
    if args.json:
        _print_json({"bundle": str(args.out), "seconds": time.perf_counter() - began, "manifest": asdict(manifest)})
        return 0
    seconds, parameters = time.perf_counter() - began, manifest.model.parameters
    print(f"{args.out}: {parameters:,} parameters, {manifest.precision}, {manifest.weight_bytes / 1e9:.3f} GB, {seconds:.1f} s")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from sc2onnx.verify import verify
    from sc2onnx.verify.run import CaseResult

    row = "{:>7}  {:<15}  {:>9}  {:>9}  {:>9}  {:>8}"
    print(row.format("length", "split", "max diff", "relative", "KL", "top-1"), file=sys.stderr)

    def tell(result: CaseResult) -> None:
        found = result.difference
        figures = (f"{found.max_abs_diff:.2e}", f"{found.max_rel_diff:.2e}", f"{found.kl_divergence:.2e}", f"{found.top1_agreement:.2%}")
        print(row.format(result.case.length, result.case.split, *figures), file=sys.stderr, flush=True)

    report = verify(args.bundle, args.checkpoint, text=args.text, max_length=args.max_length, greedy_tokens=args.greedy, tell=tell)
    summary = report.summary
    if args.json is not None:
        listed = [{"length": result.case.length, "split": result.case.split, **asdict(result.difference)} for result in report.cases]
        _write_text(args.json, json.dumps({"summary": asdict(summary), "cases": listed}, indent=2) + "\n")
    print(f"against {summary.reference}\non {summary.text}")
    print(
        f"logits: {summary.max_rel_diff:.2e} of the largest logit at most (tolerance {summary.tolerance:.0e}), {summary.max_abs_diff:.2e} absolute\n"
        f"KL divergence {summary.kl_divergence:.2e} nats, same top token {summary.top1_agreement:.2%}, "
        f"NLL {summary.nll:.4f} (torch {summary.nll_reference:.4f}), {summary.positions:,} positions\n"
        f"greedy: {summary.greedy_match} of {summary.greedy_tokens} tokens equal"
    )
    print("passed" if summary.passed else "FAILED")
    return 0 if summary.passed else 1


def _generate(args: argparse.Namespace) -> int:
    prompt = _prompt(args)
    model = _load(args)
    stream = model.stream(prompt, **_rules(args))
    return _print_stream(stream, model, args, echo=prompt if args.echo else "")


def _infill(args: argparse.Namespace) -> int:
    text = _read_text(args.file)
    offset = cursor_offset(text, args.line, args.column)
    files = {str(path): _read_text(path) for path in args.context}
    model = _load(args)
    prefix, suffix = _fit(model, text[:offset], text[offset:], args.prompt_tokens, args.max_new_tokens)
    stream = model.stream_infill(prefix, suffix, path=args.path, repo=args.repo, files=files, **_rules(args))
    return _print_stream(stream, model, args)


def _fit(model: Model, prefix: str, suffix: str, wanted: int | None, reserve: int) -> tuple[str, str]:
    """What of the file goes into the prompt: all of it if it fits, else what is nearest to the cursor, and a line that says so."""
    from sc2onnx.runtime.text import around_cursor

    if wanted is not None and wanted < 1:
        raise RequestError(f"--prompt-tokens is {wanted}, expected at least 1")
    context = model.manifest.model.context_length
    budget = wanted or max(1, context - reserve - 64)  # 64 for the special tokens, the path and the repository's name
    near = around_cursor(model.codec, prefix, suffix, budget)
    if near != (prefix, suffix):
        lines = (near[0].count("\n") + 1, near[1].count("\n") + 1)
        print(f"using {lines[0]} lines up to the cursor and {lines[1]} from it on (about {budget} tokens)", file=sys.stderr)
    return near


def _info(args: argparse.Namespace) -> int:
    from sc2onnx.runtime.bundle import Bundle
    from sc2onnx.runtime.summary import memory_need, rows

    manifest = Bundle.open(args.bundle, check="size").manifest
    need = memory_need(manifest, args.context)
    if args.json:
        _print_json({**asdict(manifest), "memory": asdict(need)})
        return 0
    shown = {"bundle": str(args.bundle), **rows(manifest, need)}
    width = max(map(len, shown))
    for name, value in shown.items():
        print(f"{name:<{width}}  {value}")
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from sc2onnx.doctor import diagnose, healthy

    findings = diagnose()
    if args.json:
        _print_json([asdict(finding) for finding in findings])
    else:
        marks = {True: "ok", False: "MISSING", None: "-"}
        width = max(len(finding.subject) for finding in findings)
        for finding in findings:
            print(f"{marks[finding.ok]:<7}  {finding.subject:<{width}}  {finding.detail}")
            if finding.advice:
                print(f"{'':<7}  {'':<{width}}  {finding.advice}")
    return 0 if healthy(findings) else 1


def cursor_offset(text: str, line: int, column: int) -> int:
    r"""Offset of a cursor before the character at ``line`` and ``column``, both from 1, as editors count; a line's end is a place too.

    In ``"ab\ncd"``, line 2, column 1 is offset 3 and line 2, column 3 is offset 5. Raises :class:`CursorError`.
    """
    lines = text.split("\n")
    if not 1 <= line <= len(lines):
        raise CursorError(f"--line is {line}, expected 1 to {len(lines)}, the lines of the file")
    length = len(lines[line - 1])
    if not 1 <= column <= length + 1:
        raise CursorError(f"--column is {column}, expected 1 to {length + 1} on line {line}")
    return sum(len(before) + 1 for before in lines[: line - 1]) + column - 1


def _load(args: argparse.Namespace) -> Model:
    from sc2onnx.runtime.model import load

    return load(args.bundle, device=args.device, threads=args.threads)


def _rules(args: argparse.Namespace) -> dict[str, Any]:
    """Keywords of ``Model.stream`` from the options of :func:`_generation_options`."""
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop", "logprobs")
    return {name: getattr(args, name) for name in names}


def _print_stream(stream: Stream, model: Model, args: argparse.Namespace, echo: str = "") -> int:
    began, pieces = time.perf_counter(), list["Piece"]()
    first = None
    with stream:
        if echo and not args.json:
            print(echo, end="", flush=True)
        for piece in stream:
            first = time.perf_counter() if first is None else first
            pieces.append(piece)
            if not args.json:
                print(piece.text, end="", flush=True)
    ended = time.perf_counter()
    tokens = [token for piece in pieces for token in piece.tokens]
    if args.json:
        logprobs = [value for piece in pieces for value in piece.logprobs or ()]
        text = "".join(piece.text for piece in pieces)
        answer: dict[str, Any] = {"text": text, "tokens": tokens, "finish_reason": pieces[-1].finish_reason}
        _print_json({**answer, **({"logprobs": logprobs} if args.logprobs else {}), "seconds": ended - began})
        return 0
    if sys.stdout.isatty():
        print()
    if sys.stderr.isatty() and first is not None and len(tokens) > 1:
        rate = (len(tokens) - 1) / max(ended - first, 1e-9)
        print(f"[{len(tokens)} tokens, first after {first - began:.2f} s, then {rate:.1f} per second]", file=sys.stderr)
    return 0


def _prompt(args: argparse.Namespace) -> str:
    if args.file is not None and args.prompt is not None:
        raise RequestError("both a prompt and --file are given, expected one of them")
    if args.file is not None:
        return _read_text(args.file)
    if args.prompt is not None and args.prompt != "-":
        return str(args.prompt)
    if sys.stdin.isatty() and args.prompt is None:
        raise RequestError("no prompt: give it as an argument, with --file FILE, or on standard input")
    return _decode(sys.stdin.buffer.read(), "standard input")


def _read_text(path: Path) -> str:
    try:
        return _decode(path.read_bytes(), str(path))
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{name} is not UTF-8 text ({error.reason} at byte {error.start}): convert it first") from error


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}") from error


def _print_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    print(json.dumps(value, indent=2))


@contextmanager
def _quiet_warnings() -> Iterator[None]:
    """Our own warnings as one line each; those of other packages are for their developers."""

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: str | None = None) -> None:
        if f"{os.sep}sc2onnx{os.sep}" in filename:
            print(f"warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextmanager
def _terminated_is_exit() -> Iterator[None]:
    """SIGTERM unwinds the stack, so that a half-written bundle is removed."""

    def leave(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # Python lets only that one handle signals
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sc2onnx", description="Run StarCoder2 outside PyTorch.")
    parser.add_argument("--version", action="version", version=f"sc2onnx {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    export = commands.add_parser("export", help="turn a checkpoint into a bundle")
    export.add_argument("checkpoint", help="directory, or hub id such as bigcode/starcoder2-3b")
    export.add_argument("out", type=Path, help="directory to make")
    export.add_argument("--precision", default="fp32", help="fp32")
    export.add_argument("--revision", help="branch, tag or commit on the hub")
    export.add_argument("--overwrite", action="store_true", help="replace the bundle at OUT")
    export.add_argument("--json", action="store_true", help="print the manifest as JSON")
    export.set_defaults(run=_export)

    verify = commands.add_parser("verify", help="compare a bundle with torch and record the outcome in it")
    verify.add_argument("bundle", type=Path)
    verify.add_argument("checkpoint", help="what the bundle was exported from: directory or hub id")
    verify.add_argument("--json", type=Path, metavar="FILE", help="write every figure to a file")
    verify.add_argument("--text", type=Path, metavar="FILE", help="code to verify on (default: argparse.py of this Python)")
    verify.add_argument("--max-length", type=int, metavar="N", help="leave out longer lengths than N tokens")
    verify.add_argument("--greedy", type=int, default=256, metavar="N", help="greedy tokens to compare (default: 256)")
    verify.set_defaults(run=_verify)

    generate = commands.add_parser("generate", help="continue a prompt")
    generate.add_argument("bundle", type=Path)
    generate.add_argument("prompt", nargs="?", help="the prompt; '-' or nothing reads standard input")
    generate.add_argument("--file", type=Path, help="read the prompt from a file")
    generate.add_argument("--echo", action="store_true", help="print the prompt first")
    _generation_options(generate)
    generate.set_defaults(run=_generate)

    infill = commands.add_parser("infill", help="complete at a cursor in a file")
    infill.add_argument("bundle", type=Path)
    infill.add_argument("file", type=Path)
    infill.add_argument("--line", type=int, required=True, help="line of the cursor, from 1")
    infill.add_argument("--column", type=int, required=True, help="column of the cursor, from 1: 1 is before the first character")
    infill.add_argument("--path", help="path of the file in its repository, as context")
    infill.add_argument("--repo", help="name of the repository, as context")
    infill.add_argument("--context", type=Path, action="append", default=[], metavar="FILE", help="another file of the repository (repeatable)")
    infill.add_argument("--prompt-tokens", type=int, metavar="N", help="how much of the file to use (default: as much as the model's context takes)")
    _generation_options(infill)
    infill.set_defaults(run=_infill)

    info = commands.add_parser("info", help="what a bundle is, and the memory it needs")
    info.add_argument("bundle", type=Path)
    info.add_argument("--context", type=int, metavar="N", help="memory at so many tokens (default: the model's context)")
    info.add_argument("--json", action="store_true")
    info.set_defaults(run=_info)

    doctor = commands.add_parser("doctor", help="what works on this machine, and what is missing")
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(run=_doctor)
    return parser


def _generation_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-new-tokens", type=int, default=128, metavar="N")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (the default)")
    parser.add_argument("--top-k", type=int, default=0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--min-p", type=float, default=0.0)
    parser.add_argument("--repetition-penalty", type=float, default=1.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text (repeatable)")
    parser.add_argument("--logprobs", action="store_true", help="with --json: log probability of each token")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of streaming")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
