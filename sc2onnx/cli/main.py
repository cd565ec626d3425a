"""The command line: parse, call, print. Each subcommand imports only its own side.

Exit status: :data:`sc2onnx.cli.boundary.STATUSES`.
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
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from sc2onnx.bundle import texts
from sc2onnx.cli.boundary import guarded
from sc2onnx.cli.options import parser
from sc2onnx.errors import CursorError, RequestError
from sc2onnx.messages import TerminalText, occupy_standard_descriptors, say, standard_streams, tell

if TYPE_CHECKING:
    from sc2onnx.bundle.provenance import Verification
    from sc2onnx.evaluate import Opener
    from sc2onnx.runtime.fitting import Surroundings
    from sc2onnx.runtime.generate import Completion, Piece
    from sc2onnx.runtime.model import Model
    from sc2onnx.runtime.stream import Stream


def entry() -> NoReturn:
    """The ``sc2onnx`` command."""
    occupy_standard_descriptors()
    raise SystemExit(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status. Raises :class:`SystemExit` for signals only."""
    with standard_streams():
        try:
            args = parser().parse_args(arguments)
        except SystemExit as ended:  # help, or a mistake that was told of
            status = int(ended.code or 0)
            return guarded("", lambda: status)
        return guarded(args.command, lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    with _quiet_warnings(), _terminated_is_exit():
        if args.command in RUN_BUNDLES:
            args.bundle = _located(args.bundle, getattr(args, "revision", None))
            args.also = [_located(bundle) for bundle in getattr(args, "also", [])]
        return COMMANDS[args.command](args)


def _export(args: argparse.Namespace) -> int:
    from sc2onnx.export import Calibration, export
    from sc2onnx.export.progress import for_stream

    began = time.perf_counter()
    files = None if args.calibration is None else tuple(args.calibration)
    calibration = Calibration(False if args.no_calibration else None, files, args.calibration_tokens)
    choices = {"calibration": calibration, "precision": args.precision, "target": args.target, "revision": args.revision, "overwrite": args.overwrite}
    choices["allow_settings"] = tuple(args.allow_setting)
    manifest = export(args.checkpoint, args.out, **choices, stages=args.stages, progress=for_stream())
    if args.json:
        _print_json({"bundle": str(args.out), "seconds": time.perf_counter() - began, "manifest": asdict(manifest)})
        return 0
    seconds, parameters = time.perf_counter() - began, manifest.model.parameters
    say(f"{args.out}: {parameters:,} parameters, {manifest.precision} for {manifest.target}, {manifest.weight_bytes / 1e9:.3f} GB, {seconds:.1f} s")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from sc2onnx.verify import verify
    from sc2onnx.verify.run import CaseResult, record

    _check_writable(args.json)
    row = "{:>7}  {:<15}  {:>9}  {:>9}  {:>9}  {:>8}"
    headings = [row.format("length", "split", "max diff", "relative", "KL", "top-1")]

    def tell_case(result: CaseResult) -> None:
        found = result.difference
        figures = (f"{found.max_abs_diff:.2e}", f"{found.max_rel_diff:.2e}", f"{found.kl_divergence:.2e}", f"{found.top1_agreement:.2%}")
        while headings:
            tell(headings.pop())
        tell(row.format(result.case.length, result.case.split, *figures))

    report = verify(
        args.bundle,
        args.checkpoint,
        text=args.text,
        max_length=args.max_length,
        greedy_tokens=args.greedy,
        kernels=args.kernels,
        tell=tell_case,
        keep=False,
    )
    try:
        _say_all(_verdict(report.summary))
    finally:  # a disk that is full, here or below, costs no figure that another place can take
        if args.kernels == "off":
            record(args.bundle, report)
        if args.json is not None:
            listed = [{"length": result.case.length, "split": result.case.split, **result.difference.figures()} for result in report.cases]
            _write_figures(args.json, {"summary": asdict(report.summary), "cases": listed})
    return 0 if report.summary.passed else 1


def _verdict(summary: Verification) -> list[str]:
    """What a comparison found, in lines for a person."""
    return [
        f"against {summary.reference}",
        f"on {summary.text}",
        f"logits: {summary.shown('max_rel_diff', '.2e')} of the largest logit at most (tolerance {summary.tolerance:.2g}), "
        f"{summary.shown('max_abs_diff', '.2e')} absolute",
        f"KL divergence {summary.shown('kl_divergence', '.2e')} nats, same top token {summary.shown('top1_agreement', '.2%')}, "
        f"NLL {summary.shown('nll', '.4f')} (torch {summary.shown('nll_reference', '.4f')}), {summary.positions:,} positions",
        f"greedy: {summary.greedy_match} of {summary.greedy_tokens} tokens equal",
        "passed" if summary.passed else "FAILED",
    ]


def _evaluate(args: argparse.Namespace) -> int:
    from sc2onnx.evaluate import Settings, evaluate
    from sc2onnx.evaluate.plot import plot
    from sc2onnx.evaluate.table import lines

    settings = Settings(args.length, args.max_tokens, args.infill, args.seed, args.threads, args.order, args.kernels, args.cache_type)
    _check_outputs(args)
    report = evaluate(args.bundle, args.files, also=args.also, against=_reference(args), settings=settings, tell=tell)
    _publish(args, lines(report), report.figures, lambda path: plot(report, path))
    return 0


def _reference(args: argparse.Namespace) -> Opener | None:
    """What ``--against`` names: a bundle if the directory is one, else a checkpoint, which torch computes."""
    from sc2onnx.bundle.contract import MANIFEST_FILE
    from sc2onnx.bundle.manifest import Manifest
    from sc2onnx.evaluate import reference_opener

    if args.against is None:
        return None
    if (Path(args.against) / MANIFEST_FILE).exists():
        return reference_opener(args.against, args.threads, args.kernels, args.cache_type)
    origin = Manifest.read(args.bundle).provenance
    from sc2onnx.verify import torch_opener

    return torch_opener(args.against, origin, args.threads)


def _bench(args: argparse.Namespace) -> int:
    from sc2onnx.bench import Settings, bench
    from sc2onnx.bench.plot import plot
    from sc2onnx.bench.table import lines

    contexts, prefill = (None if given is None else tuple(given) for given in (args.contexts, args.prefill))
    where = (args.threads, args.real_prefill, args.device, args.kernels, args.cache_type)
    settings = Settings(contexts, tuple(args.steps), prefill, args.repeat, *where)
    _check_outputs(args)
    report = bench(args.bundle, also=args.also, settings=settings, tell=tell)
    _publish(args, lines(report), report.figures, lambda path: plot(report, path))
    return 0


def _publish(
    args: argparse.Namespace,
    table: Sequence[str],
    figures: Callable[[], Mapping[str, Any]],
    plot: Callable[[Path], None],
) -> None:
    """Print a table, and write what ``--json`` and ``--plot`` ask for: each also where another cannot be written."""
    with ExitStack() as outputs:  # the last one that is entered comes first
        if args.plot is not None:
            outputs.callback(plot, args.plot)
        if args.json is not None:
            outputs.callback(lambda: _write_figures(args.json, figures()))
        outputs.callback(_say_all, table)


def _check_outputs(args: argparse.Namespace) -> None:
    """Refuse what ``--json`` and ``--plot`` cannot be, before minutes of work."""
    from sc2onnx.plotting import check_plot

    _check_writable(args.json)
    _check_writable(args.plot)
    if args.plot is not None:
        check_plot(args.plot)


def _say_all(lines: Sequence[str]) -> None:
    for line in lines:
        say(line)


def _write_figures(path: Path, figures: Mapping[str, Any]) -> None:
    _write_text(path, json.dumps(figures, indent=2, allow_nan=False) + "\n")


def _generate(args: argparse.Namespace) -> int:
    prompt = _prompt(args)
    if args.n is not None and not args.json:
        raise RequestError("--n is for --json, expected both or neither")
    model = _load(args)
    options = {**_rules(args), "special_tokens": args.special_tokens}
    if args.n is not None:
        began = time.perf_counter()
        samples = model.generate(prompt, n=args.n, **options)
        seconds = time.perf_counter() - began
        _print_json([{**_answer(sample, args), "seconds": seconds} for sample in samples])
        return 0
    return _print_stream(model.stream(prompt, **options), model, args, echo=prompt if args.echo else "")


def _infill(args: argparse.Namespace) -> int:
    from sc2onnx.runtime.fitting import LEAST

    text = _read_text(args.file)
    offset = cursor_offset(text, args.line, args.column)
    files = {str(path): _read_text(path) for path in args.context}
    model = _load(args)
    if args.prompt_tokens is not None and args.prompt_tokens < LEAST:
        raise RequestError(f"--prompt-tokens is {args.prompt_tokens}, expected at least {LEAST}")
    place = {"path": args.path, "repo": args.repo, "files": files, "order": args.order}
    near, after = text[:offset], text[offset:]
    stream = model.stream_infill(near, after, **place, prompt_tokens=args.prompt_tokens, **_rules(args))
    if stream.used is not None and stream.used.cut:
        tell(_what_is_used(stream.used, files, stream.prompt_tokens))
    return _print_stream(stream, model, args)


def _what_is_used(used: Surroundings, files: Mapping[str, str], tokens: int) -> str:
    """What of the file and of other files is in a prompt that does not take all of them."""
    lines = (used.prefix.count("\n") + 1, used.suffix.count("\n") + 1)
    parts = [f"{lines[0]} lines up to the cursor", f"{lines[1]} from it on"]
    for path, code in files.items():
        kept = used.files.get(path, "")
        if kept != code:
            parts.append(f"{len(kept.splitlines())} of {len(code.splitlines())} lines of {path}")
    return f"using {', '.join(parts[:-1])} and {parts[-1]} ({tokens} tokens)"


def _info(args: argparse.Namespace) -> int:
    if args.plan:
        return _plan(args)
    from sc2onnx.runtime.bundle import Bundle
    from sc2onnx.runtime.summary import memory_need, on_kernels, rows

    manifest = Bundle.open(_bundle(args), check="size", others=True).manifest
    kept, kernels = on_kernels(manifest)
    need = memory_need(manifest, args.context, kept)
    if args.json:
        _print_json({**asdict(manifest), "memory": asdict(need)})
        return 0
    shown = {"bundle": str(args.bundle), **rows(manifest, need, kept, kernels)}
    width = max(map(len, shown))
    for name, value in shown.items():
        say(f"{name:<{width}}  {value}")
    return 0


def _bundle(args: argparse.Namespace) -> Path:
    """The bundle that ``info`` is asked about. Raises :class:`RequestError` for what only ``--plan`` takes."""
    from sc2onnx.bundle.contract import MANIFEST_FILE

    if args.shape is not None:
        raise RequestError("--shape is for a checkpoint: add --plan")
    if args.allow_setting:
        raise RequestError("--allow-setting is for a checkpoint: add --plan")
    if args.bundle is None:
        raise RequestError("no bundle: give its directory, or --plan for what exporting a checkpoint would take")
    path = Path(args.bundle)
    if (path / "config.json").is_file() and not (path / MANIFEST_FILE).exists():
        raise RequestError(f"{path} is a checkpoint, not a bundle: add --plan for what exporting it would take, or export it first")
    return _located(args.bundle, args.revision)


def _plan(args: argparse.Namespace) -> int:
    if args.shape is not None and (args.bundle is not None or args.revision is not None):
        raise RequestError(f"--shape {args.shape} is itself a checkpoint's: leave out {args.bundle or '--revision'}, or leave out --shape")
    from sc2onnx.cli.outlook import lines, outlook

    allowed = tuple(args.allow_setting)
    ahead = outlook(args.bundle, args.shape, args.revision, args.context, allow_settings=allowed)
    if args.json:
        _print_json(ahead.figures())
    else:
        _say_all(lines(ahead))
    return 0


def _warm(args: argparse.Namespace) -> int:
    from sc2onnx.runtime.bundle import Bundle
    from sc2onnx.runtime.ort.kernels import usable
    from sc2onnx.runtime.packing import make
    from sc2onnx.runtime.summary import on_kernels

    bundle = Bundle.open(args.bundle)
    kernels = usable("auto", bundle.manifest)
    if kernels is None:
        say(f"{args.bundle}: {on_kernels(bundle.manifest)[1] or 'its weights are not quantised'}: there is nothing to pack")
        return 0
    form = make(bundle, kernels)
    say(f"{args.bundle}: {form.nbytes / 1e9:.3f} GB of packed weights in {form.directory}")
    return 0


def _push(args: argparse.Namespace) -> int:
    from sc2onnx.runtime.bundle import push

    address = push(args.bundle, args.repo, private=args.private, revision=args.revision, message=args.message)
    if args.json:
        _print_json({"bundle": str(args.bundle), "repo": args.repo, "commit": address})
    else:
        say(address)
    return 0


def _located(bundle: str | Path, revision: str | None = None) -> Path:
    """A bundle's directory, also of one on the hub."""
    from sc2onnx.bundle.hub import located

    return located(bundle, revision)


def _doctor(args: argparse.Namespace) -> int:
    from sc2onnx.cli.doctor import diagnose, healthy

    findings = diagnose()
    if args.json:
        _print_json([asdict(finding) for finding in findings])
    else:
        marks = {True: "ok", False: "MISSING", None: "-"}
        width = max(len(finding.subject) for finding in findings)
        for finding in findings:
            say(f"{marks[finding.ok]:<7}  {finding.subject:<{width}}  {finding.detail}")
            if finding.advice:
                say(f"{'':<7}  {'':<{width}}  {finding.advice}")
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

    if args.device_map is not None and args.device != "cpu":
        raise RequestError("--device and --device-map are given, expected either")
    place = {"device": args.device, "device_map": args.device_map, "threads": args.threads, "kernels": args.kernels, "cache_type": args.cache_type}
    return load(args.bundle, **place, speculate=args.speculate, prefix_memory=0)  # one request a process


def _rules(args: argparse.Namespace) -> dict[str, Any]:
    """Keywords of ``Model.stream`` from the options of :func:`_generation_options`."""
    if args.logprobs and not args.json:
        raise RequestError("--logprobs is for --json, expected both or neither")
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop", "logprobs", "heal")
    return {name: getattr(args, name) for name in names}


def _print_stream(stream: Stream, model: Model, args: argparse.Namespace, echo: str = "") -> int:
    began, pieces = time.perf_counter(), list["Piece"]()
    first = None
    screen = TerminalText() if sys.stdout.isatty() else None
    with stream:
        if echo and not args.json:
            _write(echo, screen)
        for piece in stream:
            first = time.perf_counter() if first is None else first
            pieces.append(piece)
            if not args.json:
                _write(piece.text, screen)
    ended = time.perf_counter()
    tokens = [token for piece in pieces for token in piece.tokens]
    if args.json:
        logprobs = [value for piece in pieces for value in piece.logprobs or ()]
        text = "".join(piece.text for piece in pieces)
        answer: dict[str, Any] = {"text": text, "tokens": tokens, "finish_reason": pieces[-1].finish_reason}
        _print_json({**answer, **({"logprobs": logprobs} if args.logprobs else {}), "seconds": ended - began})
        return 0
    if screen is not None:
        print(screen.flush())
    if sys.stderr.isatty() and first is not None and len(tokens) > 1:
        rate = (len(tokens) - 1) / max(ended - first, 1e-9)
        tell(f"[{len(tokens)} tokens, first after {first - began:.3f} s, then {rate:.1f} per second]")
    return 0


def _answer(done: Completion, args: argparse.Namespace) -> dict[str, Any]:
    """A completion as JSON has it."""
    answer = {"text": done.text, "tokens": done.tokens, "finish_reason": done.finish_reason}
    return {**answer, "logprobs": done.logprobs} if args.logprobs else answer


def _write(text: str, screen: TerminalText | None) -> None:
    """Write generated text: as it is, or what of it may reach a terminal."""
    print(text if screen is None else screen.push(text), end="", flush=True)


def _prompt(args: argparse.Namespace) -> str:
    if args.file is not None and args.prompt is not None:
        raise RequestError("both a prompt and --file are given, expected one of them")
    if args.file is not None:
        return _read_text(args.file)
    if args.prompt is not None and args.prompt != "-":
        return str(args.prompt)
    if sys.stdin is None or (sys.stdin.isatty() and args.prompt is None):
        raise RequestError("no prompt: give it as an argument, with --file FILE, or on standard input")
    return _decode(texts.bounded(sys.stdin.buffer, "standard input"), "standard input")


def _read_text(path: Path) -> str:
    try:
        return _decode(texts.contents(path), str(path))
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{name} is not UTF-8 text ({error.reason} at byte {error.start}): convert it first") from error


def _check_writable(path: Path | None) -> None:
    """Raise :class:`RequestError` for a file that could not be written: better said now than after hours of work."""
    if path is not None and not os.access(path.parent, os.W_OK):
        raise RequestError(f"{path.parent} cannot be written to, expected a directory for {path.name}")


def _write_text(path: Path, text: str) -> None:
    from sc2onnx.bundle.files import replace_bytes

    try:
        replace_bytes(path, text.encode())
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}") from error


def _print_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    print(json.dumps(value, indent=2))


@contextmanager
def _quiet_warnings() -> Iterator[None]:
    """Our own warnings as one line each; those of other packages are for their developers."""

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: str | None = None) -> None:
        if Path(filename).is_relative_to(Path(__file__).parent.parent):
            tell(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextmanager
def _terminated_is_exit() -> Iterator[None]:
    """SIGTERM, and SIGHUP where it exists and is not ignored, unwind the stack, so that a half-written bundle is removed."""

    def leave(number: int, frame: object) -> NoReturn:
        for each in handled:
            signal.signal(each, signal.SIG_IGN)  # a session that ends sends several: the next must not stop the clearing up
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # Python lets only that one handle signals
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    handled = {number: before for number in numbers if (before := signal.getsignal(number)) is not signal.SIG_IGN}  # nohup ignores one
    for number in handled:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, before in handled.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)


RUN_BUNDLES: Final = ("evaluate", "bench", "generate", "infill", "warm")
"""Commands whose bundles may be on the hub."""

COMMANDS: Final[Mapping[str, Callable[[argparse.Namespace], int]]] = {
    "export": _export,
    "verify": _verify,
    "evaluate": _evaluate,
    "bench": _bench,
    "generate": _generate,
    "infill": _infill,
    "info": _info,
    "warm": _warm,
    "push": _push,
    "doctor": _doctor,
}
