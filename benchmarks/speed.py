"""How fast our bundles are beside the peers, all in one process and in turns, on the
same shape, in one table.

    python benchmarks/speed.py CHECKPOINT --bundles DIR... [--peers llama.cpp openvino torch]
        [--save FILE] [--plot FILE]

Load time, time to first token, prefill, decode over context, steps of several tokens and memory;
times as medians and quartiles of rounds in which every engine has its turn, and each bundle's time
over the others', round by round (docs/benchmark.md). Bundles with a graph for the kernels run with
them, where they are installed, and without. An engine that cannot be had becomes a line that says
why. The peers are installed as for benchmarks/quality.py; --plot needs matplotlib as well.

Weights can be random (benchmarks/make_checkpoint.py). Large files, the peers' models, go to a
temporary directory (TMPDIR moves it), or to --scratch, where the next run finds them: three times
the checkpoint for llama.cpp, which quantises from float32.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from hashlib import sha256
from importlib import import_module
from pathlib import Path

from machine import cpu, system, versions
from peers import Contender, Setting
from sc2onnx.bench import Missing, Opener, Report, Settings, bench_engines, bundle_opener
from sc2onnx.bench.plot import plot
from sc2onnx.bench.report import one_line
from sc2onnx.bench.table import markdown
from sc2onnx.bundle.facts import ModelFacts
from sc2onnx.cli.common_options import bench_options
from sc2onnx.errors import Sc2onnxError
from sc2onnx.plotting import check_plot
from sc2onnx.runtime.opening.bundle import Bundle, open_named
from sc2onnx.runtime.ort.options import default_threads

ENGINES = {
    "llama.cpp": "peers.llama_cpp_engine",
    "openvino": "peers.openvino_engine",
    "torch": "peers.torch_engine",
}


def main() -> None:
    """Parse, measure, print."""
    options = _parse()
    try:
        asked = (options.context, options.prefill)
        contexts, prefill = (None if given is None else tuple(given) for given in asked)
        threads = options.threads or default_threads()
        settings = Settings(
            contexts, tuple(options.steps), prefill, options.repeat, threads, options.real_prefill
        )
        if options.plot:
            check_plot(options.plot)
        bundles = open_named(options.bundles)
        _check_same_model(bundles, options.checkpoint)
        facts = next(iter(bundles.values())).manifest.model
        tasks = settings.tasks(facts.context_length)
    except (Sc2onnxError, OSError, ValueError) as error:
        sys.exit(f"speed.py: {error}")
    with _scratch(options) as scratch, redirect_stdout(sys.stderr):  # the peers' own messages
        setting = Setting(options.checkpoint, scratch, max(task.context for task in tasks), threads)
        report = _measure(
            _ours(bundles, options, settings), options.peers, setting, settings, facts
        )
    machine = {"cpu": cpu(), "system": system(), "versions": versions()}
    about = {"checkpoint": options.checkpoint.resolve().name, **machine}
    figures = json.dumps(about | report.figures(), indent=2, allow_nan=False)
    print(figures if options.json else "\n".join(markdown(report, ours=len(bundles))))
    if options.save:
        options.save.write_text(f"{figures}\n", encoding="utf-8")
    if options.plot:
        plot(report, options.plot)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint directory")
    parser.add_argument(
        "--bundles",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="bundles of this checkpoint",
    )
    parser.add_argument(
        "--peers", nargs="*", choices=ENGINES, default=list(ENGINES), help="default: all"
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        metavar="DIR",
        help="keep the peers' files here (default: a temporary directory)",
    )
    bench_options(parser)
    return parser.parse_args()


def _check_same_model(bundles: Mapping[str, Bundle], checkpoint: Path) -> None:
    # here, because processes that measure memory import this file, and that brings the exporter
    from peers.bundles import check_same_model

    for opened in bundles.values():
        check_same_model(opened.manifest, checkpoint)


@contextmanager
def _scratch(options: argparse.Namespace) -> Iterator[Path]:
    """Where the peers' files go; under ``--scratch``, those of another checkpoint or of
    other versions are elsewhere.
    """
    if options.scratch is None:
        with tempfile.TemporaryDirectory(prefix="speed-") as made:
            yield Path(made)
        return
    files = sorted(
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in options.checkpoint.iterdir()
    )
    directory = options.scratch / sha256(json.dumps([files, versions()]).encode()).hexdigest()[:16]
    directory.mkdir(parents=True, exist_ok=True)
    yield directory


def _ours(
    bundles: Mapping[str, Bundle], options: argparse.Namespace, settings: Settings
) -> dict[str, Opener]:
    """Every bundle as the options say; then, unless these say how, those with a graph for
    the kernels without them.
    """
    threads, real = options.threads or default_threads(), settings.real_prefill
    found = {
        f"sc2onnx {name}": bundle_opener(
            opened.directory,
            threads,
            real=real,
            kernels=options.kernels,
            cache_type=options.cache_type,
        )
        for name, opened in bundles.items()
    }
    if options.kernels == "auto":
        for name, opened in bundles.items():
            if opened.manifest.kernel_graphs:
                found[f"sc2onnx {name}, without the kernels"] = bundle_opener(
                    opened.directory, threads, real=real, kernels="off"
                )
    return found


def _measure(
    ours: Mapping[str, Opener],
    peers: list[str],
    setting: Setting,
    settings: Settings,
    facts: ModelFacts,
) -> Report:
    openers = dict(ours)
    missing: list[Missing] = []
    for contender in _contenders(peers, setting):
        if isinstance(contender, Missing):
            missing.append(contender)
            continue
        try:
            _tell(f"{contender.name}: making its files")
            _apart(contender.prepare)
            openers[contender.name] = contender.open
        except Exception as error:  # each engine has its own, and a process may have been killed
            missing.append(Missing(contender.name, one_line(error)))
    report = bench_engines(openers, settings, facts.context_length, facts.vocab_size, _tell)
    return replace(report, missing=(*missing, *report.missing))


def _contenders(peers: list[str], setting: Setting) -> Iterator[Contender | Missing]:
    """Those of every engine; one whose package is not installed, or not whole, is missing."""
    for name in peers:
        try:
            yield from import_module(ENGINES[name]).contenders(setting)
        except Exception as error:  # each package has its own way to be broken
            yield Missing(name, one_line(error))


def _apart(work: Callable[[], None]) -> None:
    """In a process of its own, which gives back the memory that it took:
    converting takes more than running.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(_quietly, work).result()


def _quietly(work: Callable[[], None]) -> None:
    """Standard output is for the table."""
    with redirect_stdout(sys.stderr):
        work()


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
