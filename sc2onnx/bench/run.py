"""Composes a benchmark: the machine's read rate, each engine alone, then all of
them in memory, taking turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sc2onnx.bench.bandwidth import read_rate
from sc2onnx.bench.engine import Engine, Opener, bundle_opener
from sc2onnx.bench.process_cost import ProcessCost, process_cost
from sc2onnx.bench.report import Missing, Report, Row, one_line
from sc2onnx.bench.rounds import interleaved
from sc2onnx.bench.task import PROMPT, Task
from sc2onnx.bundle.facts import ModelFacts
from sc2onnx.errors import ContextLengthError, RequestError
from sc2onnx.messages import left
from sc2onnx.runtime.arguments import whole_number
from sc2onnx.runtime.cache.shape import CHUNK, default_capacity
from sc2onnx.runtime.opening.bundle import open_named
from sc2onnx.runtime.ort.cuda import check_cuda
from sc2onnx.runtime.ort.device_map import check_suits
from sc2onnx.runtime.ort.devices import Device
from sc2onnx.runtime.ort.kernels import CacheType, Use
from sc2onnx.runtime.ort.options import default_threads
from sc2onnx.runtime.ort.probe import copy_rate

Tell = Callable[[str], None]

CONTEXTS: Final = (64, 1024, 4096, 8192, 16384)
STEPS: Final = (1, 2, 4, 8, 16)
PREFILL: Final = (512,)

_STEP_CONTEXT: Final = 1024
"""Steps are measured at the largest context up to here, or else at the smallest: a short
prompt with a file around it.
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """What to measure. ``contexts``: decode when the sequence has so many tokens; ``steps``: of so
    many tokens, at one of the contexts; ``prefill``: of so many. None: :data:`CONTEXTS` and
    :data:`PREFILL`, as far as the models' context goes. ``repeat``: rounds; ``threads``: of every
    engine, by default one per processor; ``real_prefill``: compute what comes before instead of
    placing the sequence (:mod:`sc2onnx.bench.depth`); ``device``: ``cpu``, ``cuda`` or ``cuda:1``;
    ``kernels`` and ``cache_type``: what bundles run on, as :func:`sc2onnx.load` explains it. Raises
    :class:`RequestError` on construction.
    """

    contexts: tuple[int, ...] | None = None
    steps: tuple[int, ...] = STEPS
    prefill: tuple[int, ...] | None = None
    repeat: int = 5
    threads: int | None = None
    real_prefill: bool = False
    device: str = "cpu"
    kernels: Use = "auto"
    cache_type: CacheType = "auto"

    def __post_init__(self) -> None:
        for name, values, least in (
            ("contexts", self.contexts, 2),
            ("steps", self.steps, 1),
            ("prefill", self.prefill, 1),
        ):
            for value in values or ():
                whole_number(name, value, least)
            if values is not None and len(set(values)) < len(values):
                raise RequestError(
                    f"{name} has a number twice in {', '.join(map(str, values))}: give each once"
                )
        if self.contexts == ():
            raise RequestError(
                "contexts is empty, expected one number of tokens at least: "
                "decoding is what is compared"
            )
        whole_number("repeat", self.repeat, 1)
        if self.threads is not None:
            whole_number("threads", self.threads, 1)

    def tasks(self, longest: int) -> tuple[Task, ...]:
        """Deepest first, because some engines can only go back quickly; prompts last,
        because they empty the sequence.

        Raises :class:`RequestError` for what does not fit a context of ``longest`` tokens,
        unless it was not asked for.
        """
        contexts = sorted(
            self.contexts or [size for size in CONTEXTS if size <= longest] or [longest],
            reverse=True,
        )
        prompts = (
            self.prefill
            if self.prefill is not None
            else [size for size in PREFILL if size <= longest]
        )
        if (most := max([*contexts, *prompts])) > longest:
            raise ContextLengthError(
                f"{most} tokens of context are asked for, the model's context holds "
                f"{longest}: leave them out"
            )
        middle = max((size for size in contexts if size <= _STEP_CONTEXT), default=contexts[-1])
        found = []
        for context in contexts:
            found.append(Task("decode", context, 1))
            found += [
                Task("step", context, step) for step in sorted(self.steps) if context == middle
            ]
        found += [Task("prefill", size, size) for size in sorted(prompts)]
        return (*found, *([Task("first token", PROMPT, PROMPT)] if longest >= PROMPT else []))


def bench(
    bundle: str | Path,
    *,
    also: Sequence[str | Path] = (),
    settings: Settings | None = None,
    tell: Tell = lambda line: None,
) -> Report:
    """Measure a bundle, and ``also`` others in turns with it.
    ``tell`` is told of progress in lines.

    Needs the memory of all of them together. Starts processes, so a script that calls it keeps what
    it does under ``if __name__ == "__main__"``. Raises :class:`~sc2onnx.errors.RequestError`,
    :class:`~sc2onnx.errors.BundleError` and :class:`~sc2onnx.errors.DeviceError` before any work.
    """
    wanted = settings or Settings()
    device = Device.named(wanted.device)
    if device.on_gpu:
        check_cuda(device)
    bundles = open_named([bundle, *also])
    for opened in bundles.values():
        check_suits(opened.manifest, [device])
    facts = [opened.manifest.model for opened in bundles.values()]
    for fact in facts:
        _check_steps(wanted.steps, fact)
    threads = wanted.threads or default_threads()
    how = {
        "real": wanted.real_prefill,
        "device": wanted.device,
        "kernels": wanted.kernels,
        "cache_type": wanted.cache_type,
    }
    openers = {
        name: bundle_opener(
            opened.directory,
            threads,
            **how,  # type: ignore[arg-type]
        )
        for name, opened in bundles.items()
    }
    tasks = wanted.tasks(min(fact.context_length for fact in facts))
    failed: dict[str, Exception] = {}
    report = _measure(openers, wanted, tasks, min(fact.vocab_size for fact in facts), tell, failed)
    for error in failed.values():
        raise error
    return report


def bench_engines(
    openers: Mapping[str, Opener],
    settings: Settings,
    longest: int,
    vocab: int,
    tell: Tell = lambda line: None,
) -> Report:
    """Measure engines of any kind in turns; one that fails is missing in
    the report, with the reason.

    ``longest``: the context that all of them hold; ``vocab``: the ids that all of them know. The
    first is what the others are compared with.
    """
    return _measure(openers, settings, settings.tasks(longest), vocab, tell, {})


def _measure(
    openers: Mapping[str, Opener],
    settings: Settings,
    tasks: Sequence[Task],
    vocab: int,
    tell: Tell,
    failed: dict[str, Exception],
) -> Report:
    threads, deepest = settings.threads or default_threads(), max(task.context for task in tasks)
    device = Device.named(settings.device)
    rate = copy_rate(device) if device.on_gpu else read_rate(threads)
    tell(
        f"{device} reads and writes {rate / 1e9:.0f} GB/s"
        if device.on_gpu
        else f"{threads} threads read {rate / 1e9:.1f} GB/s"
    )
    memory = {
        name: found
        for name, opener in openers.items()
        if (found := _cost(name, opener, deepest, tell, failed))
    }
    with ExitStack() as stack:
        engines = _enter(
            stack,
            {name: opener for name, opener in openers.items() if name not in failed},
            tell,
            failed,
        )
        seconds: dict[str, dict[Task, tuple[float, ...]]] = {name: {} for name in engines}
        began = time.monotonic()
        for number, task in enumerate(tasks):
            rest = left(time.monotonic() - began, number, len(tasks))
            tell(f"{task} ({number + 1} of {len(tasks)}{rest})")
            for name, values in interleaved(engines, task, settings.repeat, vocab, failed).items():
                seconds[name][task] = values
        rows = tuple(
            Row(name, engine.weights_read, memory[name], seconds[name])
            for name, engine in engines.items()
            if name not in failed
        )
    missing = tuple(Missing(name, one_line(failed[name])) for name in openers if name in failed)
    return Report(
        rows,
        missing,
        tuple(tasks),
        threads,
        settings.repeat,
        rate,
        deepest,
        settings.real_prefill,
        str(device),
    )


def _cost(
    name: str, opener: Opener, deepest: int, tell: Tell, failed: dict[str, Exception]
) -> ProcessCost | None:
    tell(f"{name}: alone")
    try:
        return process_cost(opener, deepest - 1)
    except Exception as error:  # each engine has its own, and a process may have been killed
        failed[name] = error
        return None


def _enter(
    stack: ExitStack, openers: Mapping[str, Opener], tell: Tell, failed: dict[str, Exception]
) -> dict[str, Engine]:
    engines = {}
    for name, opener in openers.items():
        tell(f"{name}: loading")
        try:
            engines[name] = stack.enter_context(opener())
        except Exception as error:  # each engine has its own
            failed[name] = error
    return engines


def _check_steps(steps: Sequence[int], facts: ModelFacts) -> None:
    """Raise :class:`RequestError` for a step that the cache could not take at once at any depth."""
    room = default_capacity(facts.window, facts.context_length, CHUNK) - facts.window + 1
    if facts.window < facts.context_length and (most := max(steps, default=1)) > room:
        raise RequestError(
            f"a step of {most} tokens is asked for, expected at most {room}: longer ones are cut, "
            "measure them as --prefill"
        )
