"""The loop: logits -> tokens -> text, and the rules that end it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

import numpy as np
import numpy.typing as npt

from sc2onnx.errors import RequestError, SequenceStateError
from sc2onnx.runtime.arguments import whole_number
from sc2onnx.runtime.decoder import Decoder
from sc2onnx.runtime.sampling import Sampler, SamplingParameters, log_probability
from sc2onnx.runtime.text import Codec, Detokenizer, StopScanner

FinishReason = Literal["stop", "length"]
"""``stop``: a stop token or stop string. ``length``: ``max_new_tokens``, or the model's context is full."""


@dataclass(frozen=True, slots=True)
class GenerationRules:
    """How to draw and when to end. Raises :class:`RequestError` on construction."""

    max_new_tokens: int
    sampling: SamplingParameters
    stop: tuple[str, ...]
    stop_tokens: frozenset[int]
    logprobs: bool

    def __post_init__(self) -> None:
        whole_number("max_new_tokens", self.max_new_tokens, 1)
        if not all(isinstance(stop, str) and stop for stop in self.stop):
            raise RequestError(f"stop is {self.stop!r}, expected strings that are not empty")


@dataclass(frozen=True, slots=True)
class Token:
    """A generated token, and its log probability (nats, under the unfiltered model) where that was asked for."""

    id: int
    logprob: float | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """What a stream gives at a time: text, and the tokens since the piece before; the last one says why it ended.

    ``text`` is empty only in a last piece. A stop token is in neither.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    finish_reason: FinishReason | None


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole generation. ``tokens`` are the generated ones without a stop token; a stop string is cut from ``text`` only.

    ``reused_tokens``: how many of ``prompt_tokens`` an earlier request had left computed. It says how this was made, not what
    it is, so two completions that differ in nothing else are equal.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    finish_reason: FinishReason
    prompt_tokens: int
    reused_tokens: int = field(default=0, compare=False)


@dataclass(slots=True)
class Row:
    """One sequence being generated: its sampler, its rules, and why it ended."""

    prompt: npt.NDArray[np.int64]
    rules: GenerationRules
    sampler: Sampler
    context: int  # tokens that the model takes, the prompt included
    text: TextSink | None = None
    produced: int = 0
    finish_reason: FinishReason | None = None

    def take(self, logits: npt.NDArray[np.float32]) -> Token | None:
        """Draw from logits (vocab,). None if the row ended with a stop token; :attr:`finish_reason` is set when it ended."""
        token = self.sampler.draw(logits)
        if token in self.rules.stop_tokens:
            self.finish_reason = "stop"
            return None
        self.produced += 1
        if self.text is not None and self.text.push(token):
            self.finish_reason = "stop"
        elif self.produced >= self.rules.max_new_tokens or len(self.prompt) + self.produced > self.context:
            self.finish_reason = "length"
        return Token(token, log_probability(logits, token) if self.rules.logprobs else None)


class TextSink:
    """Tokens in, text out: detokenized and cut at the first stop string."""

    def __init__(self, codec: Codec, stops: tuple[str, ...]) -> None:
        self._detokenizer, self._scanner = Detokenizer(codec), StopScanner(stops)
        self._ready = ""

    def push(self, token: int) -> bool:
        """Take a token; whether a stop string is now complete."""
        self._ready += self._scanner.push(self._detokenizer.push(token))
        return self._scanner.found

    def pull(self, *, last: bool = False) -> str:
        """Text that is certain and was not pulled before; all of it if no token follows."""
        if last:
            self._ready += self._scanner.push(self._detokenizer.flush()) + self._scanner.flush()
        out, self._ready = self._ready, ""
        return out

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found; the last bytes, flushed as U+FFFD, may complete one."""
        return self._scanner.found


def tokens(decoder: Decoder, row: Row) -> Iterator[Token]:
    """Prefill and decode one row. The token that ended it with a stop string or by length is given, a stop token is not."""
    logits: npt.NDArray[np.float32] | None = decoder.prefill(row.prompt)
    while True:
        assert logits is not None
        token = row.take(logits[0, -1])
        if token is not None:
            yield token
        if token is None or row.finish_reason is not None:
            return
        logits = decoder.append(np.array([[token.id]], dtype=np.int64), "last")


@dataclass(slots=True)
class _Gathered:
    """What one row has given so far."""

    row: Row
    tokens: list[Token] = field(default_factory=list)

    def completion(self) -> Completion:
        assert self.row.finish_reason is not None
        assert self.row.text is not None
        text = self.row.text.pull(last=True)
        reason: FinishReason = "stop" if self.row.text.stopped else self.row.finish_reason
        return Completion(text, *_columns(self.tokens, self.row), reason, len(self.row.prompt))


def complete(decoders: Sequence[Decoder], rows: Sequence[Row]) -> list[Completion]:
    """Generate all rows to their end, decoding together; a row that ends leaves the batch. One fresh decoder per row."""
    gathered = [_Gathered(row) for row in rows]
    firsts = [decoder.prefill(row.prompt) for decoder, row in zip(decoders, rows, strict=True)]
    decoder = decoders[0]
    if len(decoders) > 1:
        decoder.join(decoders[1:])
    active, logits = gathered, np.concatenate([first[0] for first in firsts])  # (rows, vocab)
    while True:
        following: list[int] = []
        going: list[int] = []
        for i, entry in enumerate(active):
            token = entry.row.take(logits[i])
            if token is not None:
                entry.tokens.append(token)
                if entry.row.finish_reason is None:
                    following.append(token.id)
                    going.append(i)
        if not going:
            return [entry.completion() for entry in gathered]
        if len(going) < len(active):
            decoder.keep(going)
            active = [active[i] for i in going]
        step = decoder.append(np.array(following, dtype=np.int64)[:, None], "last")
        assert step is not None
        logits = step[:, -1]


class Stream:
    """Pieces of text as they are generated. Iterate it; closing it (or leaving its ``with`` block) stops the work.

    :meth:`close` is for any thread: a running step stops within about one operator, the cache is freed, or kept for later
    requests, and the iteration ends.
    """

    def __init__(self, decoder: Decoder, row: Row) -> None:
        self._decoder = decoder
        self._pieces = _pieces(decoder, row)  # which must not know this stream: a cycle would keep a forgotten one's cache

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Piece:
        if self._decoder.closed:
            raise StopIteration
        try:
            return next(self._pieces)
        except SequenceStateError:
            if self._decoder.closed:  # by another thread, just now
                raise StopIteration from None
            raise

    @property
    def reused_tokens(self) -> int:
        """How many tokens of the prompt an earlier request had left computed; known from the first piece on, 0 before."""
        return self._decoder.reused

    def close(self) -> None:
        """Stop and free the cache, or leave it to later requests. Closing twice, or after the end, is fine."""
        self._decoder.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _pieces(decoder: Decoder, row: Row) -> Iterator[Piece]:
    """Pieces of one row; frees the cache when it ends, is closed or is forgotten."""
    waiting = list[Token]()
    assert row.text is not None
    try:
        for token in tokens(decoder, row):
            waiting.append(token)
            text = "" if row.finish_reason else row.text.pull()
            if text:
                yield Piece(text, *_columns(waiting, row), None)
                waiting.clear()
            if decoder.closed:
                return
        text = row.text.pull(last=True)
        yield Piece(text, *_columns(waiting, row), "stop" if row.text.stopped else row.finish_reason)
    finally:
        decoder.close()


def _columns(tokens: Sequence[Token], row: Row) -> tuple[tuple[int, ...], tuple[float, ...] | None]:
    """Ids, and log probabilities where they were asked for."""
    ids = tuple(token.id for token in tokens)
    return ids, tuple(token.logprob for token in tokens if token.logprob is not None) if row.rules.logprobs else None
