"""Composes an evaluation: the reference first, its logits to a file, then each bundle against them;
one model in memory at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from sc2onnx.errors import RequestError
from sc2onnx.evaluate import infill
from sc2onnx.evaluate.adapted import adapter_of, check_adapter
from sc2onnx.evaluate.progress import EVERY, Progress, Tell
from sc2onnx.evaluate.report import InfillScore, ReferenceScore, Report, Score
from sc2onnx.evaluate.score import bits_per_byte, difference, mean_nll, perplexity, record
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
    converted one, which bundles run with that have none in their weights. Raises
    :class:`RequestError` on construction.
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

    def __post_init__(self) -> None:
        for name, value, least in (("length", self.length, 1), ("threads", self.threads, 1)):
            if value is not None:
                whole_number(name, value, least)
        for name, value, least in (
            ("max_tokens", self.max_tokens, 1),
            ("infill", self.infill, 0),
            ("seed", self.seed, 0),
        ):
            whole_number(name, value, least)
        if self.order not in get_args(FimOrder):
            raise RequestError(f"order is {self.order!r}, expected 'psm' or 'spm'")


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """What every model is asked, and with which tokenizer."""

    documents: Sequence[Document]
    passage: Passage
    questions: Sequence[infill.Question]
    codec: Codec
    stops: frozenset[int]
    length: int
    tell: Tell
    every: float

    def answer(self, source: LogitSource) -> InfillScore | None:
        """The infilling of one model; None if none is asked for."""
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
    reader = against
    if isinstance(against, (str, Path)):
        reader = reference_opener(against, *how, wanted.adapter)
    with (
        logit_store(task.passage.positions, first.vocab_size) if reader else nullcontext() as store
    ):
        found = _record(task, reader, first, store) if reader and store else None
        openers = [
            bundle_opener(opened.directory, *how, name, adapter_of(opened.manifest, wanted.adapter))
            for name, opened in bundles.items()
        ]
        scores = tuple(_score(task, opener, store) for opener in openers)
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
    )


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
    return _Task(documents, scored, questions, codec, stops, length, *told)


def _record(
    task: _Task, opener: Opener, expected: About, store: LogitStore
) -> tuple[About, InfillScore | None]:
    """The reference's turn: its logits into the store; what it is, and how it infills."""
    with opener() as source:
        check_alike(source.about, expected, task.length)
        check_same_tokens(source.about.name, source.codec, task.codec, task.documents)
        record(source, task.passage.windows, store, task.progress(source.about))
        return source.about, task.answer(source)


def _score(task: _Task, opener: Opener, store: LogitStore | None) -> Score:
    """A bundle's turn."""
    with opener() as source:
        progress, windows = task.progress(source.about), task.passage.windows
        found = difference(source, windows, store, progress) if store else None
        nll = found.nll if found else mean_nll(source, windows, progress)
        return Score(
            source.about, nll, perplexity(nll), _bits(task, nll), found, task.answer(source)
        )


def _bits(task: _Task, nll: float) -> float:
    return bits_per_byte(nll, task.passage.positions, task.passage.nbytes)
