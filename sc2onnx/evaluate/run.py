"""Composes an evaluation: the reference first, its logits to a file, then each bundle against them;
one model in memory at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, get_args

from sc2onnx.errors import RequestError
from sc2onnx.evaluate import infill
from sc2onnx.evaluate.adapted import adapter_of, check_adapter
from sc2onnx.evaluate.estimates import WindowScore, estimates, groups
from sc2onnx.evaluate.interval import Draws
from sc2onnx.evaluate.measure import pool
from sc2onnx.evaluate.progress import EVERY, Progress, Tell
from sc2onnx.evaluate.report import InfillScore, ReferenceScore, Report, Score
from sc2onnx.evaluate.score import bits_per_byte, perplexity, record, window_scores
from sc2onnx.evaluate.source import (
    About,
    LogitSource,
    Opener,
    bundle_opener,
    check_alike,
    check_same_tokens,
    reference_opener,
)
from sc2onnx.evaluate.spans import choose
from sc2onnx.evaluate.store import LogitStore, logit_store
from sc2onnx.evaluate.suite.answering import Prompting
from sc2onnx.evaluate.suite.asking import Suite, chosen
from sc2onnx.evaluate.suite.hole import Task
from sc2onnx.evaluate.text import Document, Passage, passage, read
from sc2onnx.runtime.arguments import whole_number
from sc2onnx.runtime.opening.bundle import Bundle, open_named
from sc2onnx.runtime.ort.kernels import CacheType, Use
from sc2onnx.runtime.text.codec import Codec, open_codec
from sc2onnx.runtime.text.fim import FimOrder

DEFAULT_LENGTH: Final = 1024
"""Long enough that a token's early neighbours hardly matter, short enough that 16,384 positions
cross many places of many files.
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure. ``length``: tokens of a window, :data:`DEFAULT_LENGTH` or the smallest
    context by default; ``max_tokens``: scored at most, over all files; ``infill``: spans, 0 for
    none; ``seed``: which spans; ``order``: of the prompts' parts; ``kernels`` and
    ``cache_type``: what bundles run on, as :func:`sc2onnx.load` explains it; ``adapter``: a
    converted one, which bundles run with that have none in their weights; ``suite``:
    tasks with a right answer (:data:`sc2onnx.evaluate.suite.TASKS`), of which ``programs`` executes
    what models write, ``questions``: of each; ``servers``: URLs of servers that take part in it.
    Raises :class:`RequestError` on construction.
    """

    length: int | None = None
    max_tokens: int = 16_384
    infill: int = 0
    seed: int = 0
    threads: int | None = None
    order: FimOrder = "psm"
    kernels: Use = "auto"
    cache_type: CacheType = "auto"
    adapter: str | Path | None = None
    suite: tuple[Task, ...] = ()
    questions: int = 100
    servers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value, least in (("length", self.length, 1), ("threads", self.threads, 1)):
            if value is not None:
                whole_number(name, value, least)
        for name, value, least in (
            ("max_tokens", self.max_tokens, 1),
            ("infill", self.infill, 0),
            ("seed", self.seed, 0),
            ("questions", self.questions, 1),
        ):
            whole_number(name, value, least)
        if self.order not in get_args(FimOrder):
            raise RequestError(f"order is {self.order!r}, expected 'psm' or 'spm'")
        if self.servers and not self.suite:
            raise RequestError(
                "a server gives no logits, so it can be compared by the suite alone: add --suite"
            )


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """What every model is asked, and with which tokenizer."""

    documents: Sequence[Document]
    passage: Passage
    questions: Sequence[infill.Question]
    codec: Codec
    stops: frozenset[int]
    length: int
    suite: Suite | None
    tell: Tell
    every: float

    def answer(self, source: LogitSource) -> InfillScore | None:
        """The infilling of one model; None if none is asked for. The suite keeps its own."""
        if self.suite:
            self.suite.ask(source)
        if not self.questions:
            return None
        about, total = source.about, len(self.questions)
        progress = Progress(self.tell, about.name, total, "spans infilled", self.every)
        return infill.score(source, self.questions, self.codec, self.stops, progress)

    def progress(self, about: About) -> Progress:
        """Of one model over the passage."""
        return Progress(self.tell, about.name, self.passage.positions, "positions", self.every)


def evaluate(
    bundle: str | Path,
    files: Sequence[str | Path],
    *,
    also: Sequence[str | Path] = (),
    against: str | Path | Opener | None = None,
    settings: Settings | None = None,
    tell: Tell = lambda line: None,
    every: float = EVERY,
) -> Report:
    """Measure a bundle, and ``also`` others on the same tokens, on files of code; ``against`` a
    reference, a bundle or whatever is opened.

    Negative log-likelihood (nats per token, perplexity, bits per byte of UTF-8), with a reference
    KL divergence and agreement (:class:`sc2onnx.evaluate.measure.Difference`), with
    ``settings.infill`` fill-in-the-middle (:mod:`sc2onnx.evaluate.spans`). ``tell`` is told of
    progress in lines, one every ``every`` seconds.

    Needs the memory of the largest model, and with a reference 4 bytes of temporary disk a position
    and token of the vocabulary: 3.2 GB for 16,384 positions of StarCoder2. Everything that can be
    checked is checked before any work. Raises :class:`~sc2onnx.errors.RequestError`,
    :class:`~sc2onnx.errors.BundleError`, :class:`~sc2onnx.errors.DiskSpaceError`,
    :class:`~sc2onnx.errors.TokenizerError`, :class:`~sc2onnx.errors.AdapterError` and
    :class:`~sc2onnx.errors.MissingDependencyError`.
    """
    wanted = settings or Settings()
    documents = read(files)
    bundles = open_named([bundle, *also])
    check_adapter(wanted.adapter, [opened.manifest for opened in bundles.values()])
    task = _task(documents, list(bundles.values()), wanted, (tell, every))
    abouts = {name: About.of(name, opened.manifest) for name, opened in bundles.items()}
    first = next(iter(abouts.values()))
    how = (wanted.threads, wanted.kernels, wanted.cache_type)
    reader = (
        reference_opener(against, *how, wanted.adapter)
        if isinstance(against, (str, Path))
        else against
    )
    with (
        logit_store(task.passage.positions, first.vocab_size) if reader else nullcontext() as store
    ):
        found = _record(task, reader, first, store) if reader and store else None
        openers = [
            bundle_opener(opened.directory, *how, name, adapter_of(opened.manifest, wanted.adapter))
            for name, opened in bundles.items()
        ]
        windows, scores = _estimated(
            [_score(task, opener, store) for opener in openers], task, wanted.seed
        )
    if task.suite:
        task.suite.ask_servers(documents[0].text)
    _warn_of_equals(scores)
    reference = None
    if found and scores[0].difference:
        nll = scores[0].difference.nll_reference
        reference = ReferenceScore(found[0], nll, perplexity(nll), _bits(task, nll), found[1])
    return Report(
        task.passage.files,
        task.passage.positions,
        task.passage.nbytes,
        task.length,
        wanted.seed,
        wanted.order,
        scores,
        reference,
        windows,
        task.suite.report(wanted.seed) if task.suite else None,
    )


def _estimated(
    found: Sequence[tuple[Score, list[WindowScore]]], task: _Task, seed: int
) -> tuple[str, tuple[Score, ...]]:
    """What intervals draw again, and the scores with their intervals; those after the first bundle
    are compared with it.
    """
    drawn = groups(task.passage.owners)
    draws, first = Draws(drawn, seed), found[0][1]
    scores = tuple(
        replace(score, estimates=estimates(windows, None if windows is first else first, draws))
        for score, windows in found
    )
    return drawn.unit, scores


def _warn_of_equals(scores: Sequence[Score]) -> None:
    for score in scores:
        if score.difference and score.difference.max_abs_diff == 0:
            same = f"{score.about.name} computes the reference's logits to the bit"
            warnings.warn(f"{same}: nothing is compared if both are the same bundle")


def _task(
    documents: Sequence[Document],
    bundles: Sequence[Bundle],
    wanted: Settings,
    told: tuple[Tell, float],
) -> _Task:
    context = min(opened.manifest.model.context_length for opened in bundles)
    length = wanted.length or min(DEFAULT_LENGTH, context)
    codec, first = (
        open_codec(bundles[0].tokenizer),
        About.of(bundles[0].directory.name, bundles[0].manifest),
    )
    for opened in bundles:
        about = About.of(opened.directory.name, opened.manifest)
        check_alike(about, first, length)
        check_same_tokens(about.name, open_codec(opened.tokenizer), codec, documents)
    if wanted.infill:
        infill.edit_similarity()  # better missed now than after hours of work
    questions = infill.questions(
        choose(documents, wanted.infill, wanted.seed), codec, length, context, wanted.order
    )
    stops = codec.stop_ids() | set(bundles[0].manifest.model.eos_token_ids)
    scored = passage(documents, codec, length, wanted.max_tokens)
    suite = None
    if wanted.suite:
        prompting = Prompting(codec, length, context, wanted.order, frozenset(stops))
        holes = chosen(wanted.suite, documents, wanted.questions, wanted.seed)
        suite = Suite(holes, prompting, wanted.servers, told)
    return _Task(documents, scored, questions, codec, stops, length, suite, *told)


def _record(
    task: _Task, opener: Opener, expected: About, store: LogitStore
) -> tuple[About, InfillScore | None]:
    """The reference's turn: its logits into the store; what it is, and how it infills."""
    with opener() as source:
        check_alike(source.about, expected, task.length)
        check_same_tokens(source.about.name, source.codec, task.codec, task.documents)
        record(source, task.passage.windows, store, task.progress(source.about))
        return source.about, task.answer(source)


def _score(
    task: _Task, opener: Opener, store: LogitStore | None
) -> tuple[Score, list[WindowScore]]:
    """A bundle's turn."""
    with opener() as source:
        windows = window_scores(source, task.passage.windows, store, task.progress(source.about))
        parts = [window.difference for window in windows if window.difference]
        found = pool(parts) if parts else None
        nll = sum(each.nll * each.positions for each in windows) / task.passage.positions
        answered = task.answer(source)
        score = Score(source.about, nll, perplexity(nll), _bits(task, nll), found, answered)
        return score, windows


def _bits(task: _Task, nll: float) -> float:
    return bits_per_byte(nll, task.passage.positions, task.passage.nbytes)
