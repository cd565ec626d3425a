"""What is done with each row: complete, infill, score or evaluate it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, ClassVar, Final, Protocol

from sc2onnx.batch.attributing import Marks
from sc2onnx.batch.records import Record
from sc2onnx.errors import NotFiniteError, RequestError
from sc2onnx.evaluate.score import bits_per_byte, perplexity
from sc2onnx.runtime.engine.task import Task as Handle
from sc2onnx.runtime.infill_options import InfillOptions
from sc2onnx.runtime.model import Model
from sc2onnx.runtime.options import GenerationOptions
from sc2onnx.runtime.results import Completion

Columns = Mapping[str, str]
"""Fields of a row of the output -> their types, as :mod:`sc2onnx.batch.parquet` names them."""

HEAD: Final[Columns] = {"id": "str", "file": "str", "row": "int"}
ERROR: Final[Columns] = {"error": "str"}


class Pending(Protocol):
    """A row that is being computed."""

    @property
    def ended(self) -> bool:
        """Whether :meth:`result` would not wait."""

    def when_ended(self, call: Callable[[], object]) -> None:
        """Have something called when it ends, from any thread, once or more often."""

    def result(self) -> dict[str, Any]:
        """What the output says of it. Raises :class:`RequestError` and
        :class:`~sc2onnx.errors.NotFiniteError` for a row that cannot be computed.
        """

    def cancel(self) -> None:
        """End it, without waiting for that."""


class Task(ABC):
    """What is done with each row. ``fields``: of the input, that it reads; ``counted``: the field
    of its output that says how many tokens a row took.
    """

    fields: ClassVar[tuple[str, ...]]
    counted: ClassVar[str] = "tokens"

    @property
    @abstractmethod
    def columns(self) -> Columns:
        """The fields that it writes."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What its output depends on, as JSON has it."""

    def check(self, model: Model) -> None:
        """Raise what would stand in the way of every row."""
        model.codec  # noqa: B018 - opened now

    @abstractmethod
    def begin(self, model: Model, record: Record) -> Pending:
        """Begin with a row. Raises :class:`RequestError` for one that cannot be computed."""

    def sums(self, row: Mapping[str, Any]) -> dict[str, float]:
        """What of a row is summed over the job, for :func:`summary`."""
        return {}

    def close(self) -> None:  # noqa: B027 - most have nothing to do
        """Stop what is under way; nothing more is begun."""


class Generated:
    """A request of the engine's as a row."""

    def __init__(self, handle: Handle, row: Callable[[Completion], dict[str, Any]]) -> None:
        self._handle, self._row = handle, row
        self.when_ended, self.cancel = handle.when_ended, handle.cancel

    @property
    def ended(self) -> bool:
        """See :class:`Pending`."""
        return self._handle.ended

    def result(self) -> dict[str, Any]:
        """See :class:`Pending`."""
        return self._row(self._handle.result())


_GENERATED: Final[Columns] = {
    "text": "str",
    "finish_reason": "str",
    "prompt_tokens": "int",
    "tokens": "int",
}
_IN_TOKENS: Final[Columns] = {"token_ids": "ints", "logprobs": "floats"}

_DIGITS: Final = 6
"""Of a log probability behind the point, in nats: a quarter of the bytes."""


def _generated(done: Completion) -> dict[str, Any]:
    row: dict[str, Any] = {
        "text": done.text,
        "finish_reason": done.finish_reason,
        "prompt_tokens": done.prompt_tokens,
        "tokens": len(done.tokens),
    }
    if done.logprobs is not None:
        row |= _in_tokens(done.tokens, done.logprobs)
    return row


def _in_tokens(tokens: tuple[int, ...], logprobs: tuple[float, ...]) -> dict[str, Any]:
    return {"token_ids": list(tokens), "logprobs": [round(value, _DIGITS) for value in logprobs]}


_UNMARKED: Final = Marks()


class Completing(Task):
    """Continues the ``prompt`` of each row, as :meth:`Model.generate` does."""

    fields = ("prompt",)

    def __init__(self, options: Mapping[str, Any], marks: Marks = _UNMARKED) -> None:
        """``options``: keywords of :class:`GenerationOptions`, ``seed`` that of the job. Raises
        :class:`RequestError`.
        """
        self._marks = marks
        self._options = {**options, "seed": options.get("seed") or 0}
        self._logprobs = GenerationOptions.of(self._options).logprobs

    @property
    def columns(self) -> Columns:
        """See :class:`Task`."""
        more = _IN_TOKENS if self._logprobs else {}
        return {**_GENERATED, **more, **self._marks.columns}

    def settings(self) -> dict[str, Any]:
        """See :class:`Task`."""
        return {**self._options, **self._marks.settings()}

    def check(self, model: Model) -> None:
        """See :class:`Task`."""
        model.requests.prepare(GenerationOptions.of(self._options))

    def begin(self, model: Model, record: Record) -> Pending:
        """See :class:`Task`."""
        options = {**self._options, "seed": record.seed(self._options["seed"])}
        handle = model.submit(record.text("prompt"), **options)
        return Generated(handle, lambda done: self._row(record, done))

    def _row(self, record: Record, done: Completion) -> dict[str, Any]:
        return {**_generated(done), **self._marks.of(record, done.text)}


_CONTEXT: Final = ("path", "repo", "files")


class Infilling(Task):
    """Fills in between ``prefix`` and ``suffix`` of each row, as :meth:`Model.infill`
    does; ``path``, ``repo`` and ``files`` may be there as well. ``cut``: the prompt
    does not have all of them.
    """

    fields = ("prefix", "suffix", *_CONTEXT)

    def __init__(self, options: Mapping[str, Any], marks: Marks = _UNMARKED) -> None:
        """``options``: keywords of :class:`InfillOptions`. Raises :class:`RequestError`."""
        self._marks = marks
        self._options = {**options, "seed": options.get("seed") or 0}
        self._logprobs = InfillOptions.of(self._options).logprobs

    @property
    def columns(self) -> Columns:
        """See :class:`Task`."""
        more = _IN_TOKENS if self._logprobs else {}
        return {**_GENERATED, "cut": "bool", **more, **self._marks.columns}

    def settings(self) -> dict[str, Any]:
        """See :class:`Task`."""
        return {**self._options, **self._marks.settings()}

    def check(self, model: Model) -> None:
        """See :class:`Task`."""
        model.requests.prepare(InfillOptions.of(self._options))

    def begin(self, model: Model, record: Record) -> Pending:
        """See :class:`Task`."""
        context = {name: record.fields.get(name) for name in _CONTEXT}
        options = {**self._options, **context, "seed": record.seed(self._options["seed"])}
        handle = model.submit_infill(record.text("prefix"), record.text("suffix"), **options)
        return Generated(handle, lambda done: self._row(record, done))

    def _row(self, record: Record, done: Completion) -> dict[str, Any]:
        cut = done.used is not None and done.used.cut
        return {**_generated(done), "cut": cut, **self._marks.of(record, done.text)}


_SCORED: Final[Columns] = {
    "nll": "float",
    "perplexity": "float",
    "bits_per_byte": "float",
    "tokens": "int",
    "bytes": "int",
}


class Scoring(Task):
    """How likely the ``text`` of each row is, read as a whole: it has to fit the context.

    ``nll``: the mean over its tokens but the first, nats; ``tokens``: so many; ``bytes``: of the
    text that they stand for. ``logprobs``: those of each token as well.
    """

    fields = ("text",)

    def __init__(self, logprobs: bool = False, adapter: str | None = None) -> None:
        """``adapter``: the name of one that the model has loaded."""
        self.logprobs, self._adapter = logprobs, adapter

    @property
    def columns(self) -> Columns:
        """See :class:`Task`."""
        return {**_SCORED, **(_IN_TOKENS if self.logprobs else {})}

    def settings(self) -> dict[str, Any]:
        """See :class:`Task`."""
        named = {} if self._adapter is None else {"adapter": self._adapter}
        return {"logprobs": self.logprobs, **named}

    def sums(self, row: Mapping[str, Any]) -> dict[str, float]:
        """See :class:`Task`."""
        return likelihood_sums(row)

    def begin(self, model: Model, record: Record) -> Pending:
        """See :class:`Task`."""
        asked = {
            "logprobs": True,
            "prompt_logprobs": True,
            "max_new_tokens": 1,
            "special_tokens": "text",
            "adapter": self._adapter,
        }
        handle = model.submit(record.text("text"), **asked)  # type: ignore[arg-type]

        def row(done: Completion) -> dict[str, Any]:
            return self._row(model, done)

        return Generated(handle, row)

    def _row(self, model: Model, done: Completion) -> dict[str, Any]:
        assert done.prompt is not None
        scored = [(token.id, token.logprob) for token in done.prompt if token.logprob is not None]
        if not scored:
            raise RequestError(
                "the text has one token only, expected two at least: the first one is never scored"
            )
        tokens, logprobs = (tuple(column) for column in zip(*scored, strict=True))
        nbytes = sum(len(model.codec.token_bytes(token)) for token in tokens)
        row = likelihood(-sum(logprobs) / len(logprobs), len(tokens), nbytes)
        return {**row, **_in_tokens(tokens, logprobs)} if self.logprobs else row


def likelihood(nll: float, tokens: int, nbytes: int) -> dict[str, Any]:
    """A row of the output on a text whose ``tokens`` have this mean NLL and stand for ``nbytes``.

    Raises :class:`NotFiniteError`.
    """
    if not isfinite(nll):
        raise NotFiniteError(f"the negative log-likelihood of the text is {nll}, expected a number")
    surprise = perplexity(nll)
    figures = {"nll": nll, "perplexity": surprise if isfinite(surprise) else None}
    return {
        **figures,
        "bits_per_byte": bits_per_byte(nll, tokens, nbytes),
        "tokens": tokens,
        "bytes": nbytes,
    }


def likelihood_sums(row: Mapping[str, Any]) -> dict[str, float]:
    """Of a row that :func:`likelihood` gave: nats and bytes."""
    return {"nats": row["nll"] * row["tokens"], "bytes": row["bytes"]}
