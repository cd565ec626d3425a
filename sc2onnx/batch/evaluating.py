"""Each row as a file that a bundle is evaluated on, by the measures of :mod:`sc2onnx.evaluate`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final, get_args

import numpy as np
import numpy.typing as npt

from sc2onnx.batch.records import Record
from sc2onnx.batch.tasks import Columns, Pending, Scoring, Task, likelihood, likelihood_sums
from sc2onnx.errors import CancelledError, RequestError
from sc2onnx.evaluate import infill
from sc2onnx.evaluate.measure import Floats
from sc2onnx.evaluate.progress import Progress
from sc2onnx.evaluate.run import DEFAULT_LENGTH
from sc2onnx.evaluate.score import mean_nll
from sc2onnx.evaluate.source import About, BundleSource, check_alike
from sc2onnx.evaluate.spans import choose
from sc2onnx.evaluate.text import Document, passage
from sc2onnx.runtime.arguments import one_of, whole_number
from sc2onnx.runtime.model import Model
from sc2onnx.runtime.text.fim import FimOrder

_SHARES: Final = ("exact_match", "edit_similarity")
_INFILLED: Final[Columns] = {"spans": "int", **dict.fromkeys(_SHARES, "float")}


@dataclass(frozen=True, slots=True)
class Measures:
    """What is measured of each file, as :class:`sc2onnx.evaluate.Settings` explains it. ``length``
    None: :data:`~sc2onnx.evaluate.run.DEFAULT_LENGTH`, or the context where that is less.

    Raises :class:`RequestError` and
    :class:`~sc2onnx.errors.MissingDependencyError` on construction.
    """

    length: int | None = None
    max_tokens: int = 16_384
    infill: int = 0
    seed: int = 0
    order: FimOrder = "psm"

    def __post_init__(self) -> None:
        if self.length is not None:
            whole_number("length", self.length, 1)
        whole_number("max_tokens", self.max_tokens, 1)
        whole_number("infill", self.infill, 0)
        whole_number("seed", self.seed, 0)
        one_of("order", self.order, get_args(FimOrder))
        if self.infill:
            infill.edit_similarity()  # better missed now than at every row


class Evaluating(Task):
    """How likely the ``text`` of each row is, in windows, however long it is; and how well spans of
    it are filled in, where that is asked for: of a text too short for so many ``spans`` is 0.
    """

    fields = ("text",)

    def __init__(self, measures: Measures, adapter: str | None = None) -> None:
        """``adapter``: the name of one that the model has loaded."""
        self._measures, self._adapter = measures, adapter
        self._workers: ThreadPoolExecutor | None = None
        self._stopped = threading.Event()

    @property
    def columns(self) -> Columns:
        """See :class:`~sc2onnx.batch.tasks.Task`."""
        return {**Scoring().columns, **(_INFILLED if self._measures.infill else {})}

    def settings(self) -> dict[str, Any]:
        """See :class:`~sc2onnx.batch.tasks.Task`."""
        named = {} if self._adapter is None else {"adapter": self._adapter}
        return {**asdict(self._measures), **named}

    def check(self, model: Model) -> None:
        """See :class:`~sc2onnx.batch.tasks.Task`."""
        super().check(model)
        about = About.of(model.manifest.provenance.source, model.manifest)
        check_alike(about, about, self._measures.length or 0)

    def sums(self, row: Mapping[str, Any]) -> dict[str, float]:
        """See :class:`~sc2onnx.batch.tasks.Task`."""
        found = likelihood_sums(row)
        if spans := row.get("spans"):
            found |= {"spans": spans, **{name: spans * row[name] for name in _SHARES}}
        return found

    def begin(self, model: Model, record: Record) -> Pending:
        """See :class:`~sc2onnx.batch.tasks.Task`."""
        document = Document(record.file, record.text("text"))
        if self._workers is None:  # as many as the engine computes together
            self._workers = ThreadPoolExecutor(model.engine.bounds.rows, "sc2onnx-evaluate")
        return _Working(
            self._workers.submit(self._row, model, document, record.seed(self._measures.seed))
        )

    def _row(self, model: Model, document: Document, seed: int) -> dict[str, Any]:
        """What there is to say of a file; computed in the threads of the models that wait."""
        wanted, context = self._measures, model.manifest.model.context_length
        length = wanted.length or min(DEFAULT_LENGTH, context)
        scored = passage([document], model.codec, length, wanted.max_tokens)
        source = _Source(model, self._adapter, self._stopped)
        nll = mean_nll(
            source, scored.windows, Progress(_quiet, document.name, scored.positions, "positions")
        )
        row = likelihood(nll, scored.positions, scored.nbytes)
        return {**row, **self._infilled(source, document, seed, length)} if wanted.infill else row

    def _infilled(
        self, source: _Source, document: Document, seed: int, length: int
    ) -> dict[str, Any]:
        model, wanted = source.model, self._measures
        try:
            spans = choose([document], wanted.infill, seed)
        except RequestError:  # there are not so many
            return {"spans": 0, "exact_match": None, "edit_similarity": None}
        facts, codec = model.manifest.model, model.codec
        asked = infill.questions(spans, codec, length, facts.context_length, wanted.order)
        stops = codec.stop_ids() | set(facts.eos_token_ids)
        found = infill.score(
            source, asked, codec, stops, Progress(_quiet, document.name, len(asked), "spans")
        )
        return {
            "spans": found.spans,
            "exact_match": found.exact_match,
            "edit_similarity": found.edit_similarity,
        }

    def close(self) -> None:
        """See :class:`~sc2onnx.batch.tasks.Task`. What is under way ends with its step."""
        self._stopped.set()
        if self._workers is not None:
            self._workers.shutdown(cancel_futures=True)
        self._workers, self._stopped = None, threading.Event()


class _Source(BundleSource):
    """A bundle that stops between two steps."""

    def __init__(self, model: Model, adapter: str | None, stopped: threading.Event) -> None:
        super().__init__(model, "", adapter)
        self.model, self._stopped = model, stopped

    def logits(self, tokens: npt.NDArray[np.int64]) -> Iterator[Floats]:
        """See :class:`~sc2onnx.evaluate.source.LogitSource`."""
        for logits in super().logits(tokens):
            self._check()
            yield logits

    def continuation(self, prompt: npt.NDArray[np.int64], limit: int) -> Generator[int, None, None]:
        """See :class:`~sc2onnx.evaluate.source.LogitSource`."""
        for token in super().continuation(prompt, limit):
            self._check()
            yield token

    def _check(self) -> None:
        if self._stopped.is_set():
            raise CancelledError("the job was stopped")


class _Working:
    """A row that a thread works on."""

    def __init__(self, future: Future[dict[str, Any]]) -> None:
        self._future = future
        self.result = future.result

    @property
    def ended(self) -> bool:
        """See :class:`~sc2onnx.batch.tasks.Pending`."""
        return self._future.done()

    def when_ended(self, call: Callable[[], object]) -> None:
        """See :class:`~sc2onnx.batch.tasks.Pending`."""
        self._future.add_done_callback(lambda future: call())

    def cancel(self) -> None:
        """See :class:`~sc2onnx.batch.tasks.Pending`."""
        self._future.cancel()


def _quiet(line: str) -> None:
    """Told of the progress within a file."""
