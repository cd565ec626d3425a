"""The loop: logits -> tokens -> text, and the rules that end it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from sc2onnx.runtime.arguments import flag, stop_strings, whole_number
from sc2onnx.runtime.choose.sampling import Sampler, SamplingParameters, finite, log_probability
from sc2onnx.runtime.decoder import Decoder
from sc2onnx.runtime.speculate import Drafter
from sc2onnx.runtime.text.codec import Codec
from sc2onnx.runtime.text.detokenize import Detokenizer
from sc2onnx.runtime.text.fitting import Surroundings
from sc2onnx.runtime.text.stop import StopScanner

FinishReason = Literal["stop", "length", "cancelled"]
"""``stop``: a stop token or stop string. ``length``: ``max_new_tokens``, or the model's context is
full. ``cancelled``: closed before that; only a stream can be, and its text is whatever had come.
"""


@dataclass(frozen=True, slots=True)
class GenerationRules:
    """How to draw and when to end. Raises :class:`RequestError` on construction."""

    max_new_tokens: int
    sampling: SamplingParameters
    stop: tuple[str, ...]
    stop_tokens: frozenset[int]
    logprobs: bool

    def __post_init__(self) -> None:
        most = whole_number("max_new_tokens", self.max_new_tokens, 1)
        object.__setattr__(self, "max_new_tokens", most)  # numpy's small integers overflow
        stop_strings(self.stop)
        flag("logprobs", self.logprobs)


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
    """A whole generation. ``tokens`` are the generated ones without a stop token; a stop string is
    cut from ``text`` only.

    ``drafted_tokens`` and ``accepted_tokens``: how many were computed ahead as guesses, and how
    many of those were right. ``reused_tokens``: how many of ``prompt_tokens`` an earlier request
    had left computed. ``used``: what of the code around the cursor was in the prompt, for
    infilling. These say how this was made, not what it is: completions that differ in nothing else
    are equal.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    finish_reason: FinishReason
    prompt_tokens: int
    drafted_tokens: int = field(default=0, compare=False)
    accepted_tokens: int = field(default=0, compare=False)
    reused_tokens: int = field(default=0, compare=False)
    used: Surroundings | None = field(default=None, compare=False)


class Draws(Protocol):
    """Something that picks tokens: a :class:`~sc2onnx.runtime.choose.sampling.Sampler`, or a benchmark that knows the text."""

    def draw(self, logits: npt.NDArray[np.float32]) -> int:
        """A token from logits (vocab,)."""
        ...


Scores = npt.NDArray[np.float32] | np.int64
"""Logits (vocab,), or the most likely token alone."""


@dataclass(slots=True)
class Row:
    """One sequence being generated: its sampler, its rules, and why it ended. With a ``drafter`` it may be computed several tokens at a time."""

    prompt: npt.NDArray[np.int64]
    rules: GenerationRules
    sampler: Draws
    context: int  # tokens that the model takes, the prompt included
    text: TextSink | None = None
    drafter: Drafter | None = None
    produced: int = 0
    finish_reason: FinishReason | None = None
    used: Surroundings | None = None  # what the prompt was made of, where it is for infilling

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is all that it wants of logits."""
        return isinstance(self.sampler, Sampler) and self.sampler.greedy and not self.rules.logprobs

    def take(self, logits: Scores) -> Token | None:
        """Draw from logits (vocab,), or take the token that is the most likely, where the device found it.

        None if the row ended with a stop token; :attr:`finish_reason` is set when it ended.
        """
        token = self.sampler.draw(logits) if isinstance(logits, np.ndarray) else finite(int(logits))
        if token in self.rules.stop_tokens:
            self.finish_reason = "stop"
            return None
        self.produced += 1
        if self.text is not None and self.text.push(token):
            self.finish_reason = "stop"
        elif self.produced >= self.rules.max_new_tokens or len(self.prompt) + self.produced > self.context:
            self.finish_reason = "length"
        return Token(token, log_probability(logits, token) if self.rules.logprobs and isinstance(logits, np.ndarray) else None)

    def draft(self, longest_step: int) -> list[int]:
        """Guesses at the tokens after the last one, to be computed with it in one step."""
        if self.drafter is None:
            return []
        return self.drafter.draft(min(longest_step, self.rules.max_new_tokens - self.produced) - 1)

    @property
    def guesses(self) -> tuple[int, int]:
        """How many tokens were computed ahead, and how many of those were right."""
        return (0, 0) if self.drafter is None else (self.drafter.drafted, self.drafter.accepted)

    def outcome(self, draft: Sequence[int], given: Sequence[int], seconds: float | None) -> None:
        """What a step with this draft gave; ``seconds`` None: the prompt's, which says nothing of later ones."""
        if self.drafter is not None:
            self.drafter.outcome(draft, given, seconds)


class TextSink:
    """Tokens in, text out: detokenized, without the first ``skip`` characters, and cut at the first stop string."""

    def __init__(self, codec: Codec, stops: tuple[str, ...], *, skip: int = 0) -> None:
        self._detokenizer, self._scanner = Detokenizer(codec), StopScanner(stops)
        self._ready, self._skip = "", skip

    def push(self, token: int) -> bool:
        """Take a token; whether a stop string is now complete."""
        text = self._detokenizer.push(token)
        self._ready += self._scanner.push(text[self._skip :])
        self._skip = max(0, self._skip - len(text))
        return self._scanner.found

    def pull(self, *, last: bool = False) -> str:
        """Text that is certain and was not pulled before; all of it if no token follows."""
        if last:
            self._ready += self._scanner.push(self._detokenizer.flush()[self._skip :]) + self._scanner.flush()
        out, self._ready = self._ready, ""
        return out

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found; the last bytes, flushed as U+FFFD, may complete one."""
        return self._scanner.found


def tokens(decoder: Decoder, row: Row) -> Iterator[Token]:
    """Prefill and decode one row. The token that ended it with a stop string or by length is given, a stop token is not."""
    ids = decoder.chooses and row.greedy
    logits: npt.NDArray[Any] | None = decoder.prefill(row.prompt, ids=ids)
    draft, seconds = list[int](), None
    while True:
        assert logits is not None
        given = list[int]()
        for scores, guess in zip_longest(logits[0], draft):  # beyond the draft there is one position more
            token = row.take(scores)
            if token is not None:
                given.append(token.id)
                yield token
            if row.finish_reason is not None or given[-1] != guess:
                break
        row.outcome(draft, given, seconds)
        if row.finish_reason is not None:
            return
        decoder.rewind(len(draft) + 1 - len(given))
        draft = row.draft(decoder.longest_step)
        began = time.perf_counter()
        logits = decoder.append(np.array([[given[-1], *draft]], dtype=np.int64), "all", ids=ids)
        seconds = time.perf_counter() - began


@dataclass(slots=True)
class Gathered:
    """What one row has given so far."""

    row: Row
    tokens: list[Token] = field(default_factory=list)

    def completion(self, reused: int = 0) -> Completion:
        """All of it. ``reused``: tokens of the prompt that an earlier request had left computed."""
        row = self.row
        assert row.finish_reason is not None
        assert row.text is not None
        text = row.text.pull(last=True)
        reason: FinishReason = "stop" if row.text.stopped else row.finish_reason
        return Completion(text, *columns(self.tokens, row), reason, len(row.prompt), *row.guesses, reused, row.used)


def complete(row: Row, decoder: Decoder) -> Completion:
    """Generate a row to its end."""
    return Gathered(row, list(tokens(decoder, row))).completion(decoder.reused)


def columns(tokens: Sequence[Token], row: Row) -> tuple[tuple[int, ...], tuple[float, ...] | None]:
    """Ids, and log probabilities where they were asked for."""
    ids = tuple(token.id for token in tokens)
    return ids, tuple(token.logprob for token in tokens if token.logprob is not None) if row.rules.logprobs else None
