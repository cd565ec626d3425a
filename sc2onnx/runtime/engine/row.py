"""One request under way: what it computes next, what it has given, and why it ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from sc2onnx.runtime.choose.chooser import Chooser
from sc2onnx.runtime.choose.constrained import Steering
from sc2onnx.runtime.choose.sampling import Sampler, finite
from sc2onnx.runtime.engine.logprobs import columns, measured, top_columns
from sc2onnx.runtime.engine.moments import Moments
from sc2onnx.runtime.engine.seats import Seat
from sc2onnx.runtime.engine.shared_prompt import Scores, SharedPrompt
from sc2onnx.runtime.engine.speculate import Drafter
from sc2onnx.runtime.engine.terms import Terms
from sc2onnx.runtime.options import GenerationRules
from sc2onnx.runtime.results import Completion, FinishReason, Piece, Token, Usage
from sc2onnx.runtime.text.fitting import Surroundings
from sc2onnx.runtime.text.sink import TextSink

AHEAD: Final = 16
"""Parts that wait for a slow reader before its row stands still."""

Gives = Literal["whole", "pieces", "tokens"]
"""What a row's reader takes: nothing until the end, pieces of text, or tokens."""


@dataclass(slots=True, eq=False)
class Row:
    """One sequence being generated: its sampler, its rules, and why it ended.

    ``context``: tokens that the model takes, the prompt included. With a ``drafter`` it may be
    computed several tokens at a time. ``used``: what the prompt was made of, where it is for
    infilling. ``steering``: where its text is within a constraint, if it has one.
    """

    prompt: npt.NDArray[np.int64]
    rules: GenerationRules
    sampler: Chooser
    context: int
    text: TextSink | None = None
    drafter: Drafter | None = None
    used: Surroundings | None = None
    gives: Gives = "whole"
    terms: Terms = field(default_factory=Terms)
    shared: SharedPrompt | None = None
    steering: Steering | None = None

    tokens: list[Token] = field(default_factory=list)
    parts: deque[Any] = field(default_factory=deque)  # that its reader has not taken
    finish_reason: FinishReason | None = None
    error: BaseException | None = None
    told: bool = False  # whether its reader knows of the error
    cancelled: bool = False
    wake: Callable[[], object] | None = None  # tells the reader that there is something

    seat: Seat | None = None
    guesses: list[int] = field(default_factory=list)
    reused: int = 0
    scored: list[Token] = field(default_factory=list)  # of the prompt, from its second token on
    keeps: bool = True  # whether what was computed may serve later prompts
    drawing: bool = False  # in the middle of it
    _whole: Completion | None = None
    _given: int = 0  # tokens that are in pieces
    moments: Moments = field(default_factory=Moments)

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self.finish_reason is not None or self.error is not None

    @property
    def entered(self) -> bool:
        """Whether it is, or was, among those that are computed."""
        return self.moments.entered

    @property
    def ready(self) -> bool:
        """Whether its reader can go on."""
        return bool(self.parts) or self.ended

    @property
    def paused(self) -> bool:
        """Whether it waits for a slow reader."""
        return len(self.parts) >= AHEAD

    @property
    def produced(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is all that it wants of logits."""
        plain = isinstance(self.sampler, Sampler) and self.sampler.greedy
        return plain and not self.rules.logprobs

    @property
    def prefilling(self) -> bool:
        """Whether some of its prompt is not computed, or its logits were not drawn from."""
        return not self.produced

    @property
    def prompt_left(self) -> int:
        """Tokens of the prompt that are not computed."""
        return len(self.prompt) - (0 if self.seat is None else self.seat.length)

    def score(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Note what a step's logits (n, vocab) say of the prompt's tokens. Gives those after the
        last of them, (1, vocab), or none before that: (0, vocab).
        """
        end = len(self.prompt) - self.prompt_left
        following = self.prompt[end - len(logits) + 1 : end + 1]
        self.scored += [
            measured(int(token), scores, self.rules)
            for token, scores in zip(following, logits, strict=False)
        ]
        return logits[len(following) :]

    def draft(self, limit: int, beside: int) -> list[int]:
        """Guesses at the tokens after the last one, to be computed with it in one step.

        ``limit``: the most tokens of the step; ``beside``: tokens that others have in it.
        """
        if self.drafter is None:
            return []
        most = min(limit, self.rules.max_new_tokens - self.produced) - 1
        return self.drafter.draft(most, beside)

    def step_tokens(self, count: int) -> npt.NDArray[np.int64]:
        """The tokens of its next step, ``count`` of its prompt or the last one and the guesses."""
        if self.prefilling:
            done = len(self.prompt) - self.prompt_left
            return self.prompt[done : done + count]
        return np.array([self.tokens[-1].id, *self.guesses], dtype=np.int64)

    def advance(self, logits: Sequence[Scores], seconds: float | None, beside: int = 0) -> int:
        """Draw from the logits of the last token and of each guess, as far as guesses are right.

        ``seconds``: of the step, if it says what later ones take; ``beside``: tokens of others in
        it. Gives how many guesses were right.
        """
        given, right = list[int](), 0
        for scores, guess in zip_longest(logits, self.guesses):  # one position more than guesses
            token = self._take(scores)
            if token is None:
                break
            given.append(token)
            if token == guess:
                right += 1
            if self.finish_reason is not None or token != guess:
                break
        if self.drafter is not None:
            self.drafter.outcome(self.guesses, given, seconds, beside)
        self.guesses = []
        return right

    def _take(self, scores: Scores) -> int | None:
        """Draw a token, and give it to the reader; None if it is a stop
        token, which is not given.
        """
        drawn = isinstance(scores, np.ndarray)
        token = self.sampler.draw(scores) if isinstance(scores, np.ndarray) else finite(int(scores))
        if token in self.rules.stop_tokens:
            self._finish("stop")
            return None
        self.tokens.append(
            measured(
                token,
                scores,  # type: ignore[arg-type]
                self.rules,
            )
            if self.rules.logprobs and drawn
            else Token(token)
        )
        if self.gives == "tokens":
            self.parts.append(self.tokens[-1])
        full = len(self.prompt) + self.produced > self.context
        whole = self.steering is not None and self.steering.complete
        if (self.text is not None and self.text.push(token)) or whole:
            self._finish("stop")
        elif self.produced >= self.rules.max_new_tokens or full:
            self._finish("length")
        elif self._late:
            self._finish("timeout")
        elif self.gives == "pieces" and self.text is not None and (text := self.text.pull()):
            self._piece(text, None)
        return token

    @property
    def _late(self) -> bool:
        """Whether it has written for so long that it ends when it has more than one line."""
        seconds = self.rules.line_seconds
        if seconds is None or self.text is None or not self.text.several:
            return False
        return self.moments.writing >= seconds

    def _finish(self, reason: FinishReason) -> None:
        if self.gives == "pieces" and self.text is not None:
            text = self.text.pull(last=True)
            reason = "stop" if self.text.stopped else reason
            self._piece(text, reason)
        self.moments.mark("end")
        self.finish_reason = reason

    def _piece(self, text: str, reason: FinishReason | None) -> None:
        fresh, self._given = self.tokens[self._given :], len(self.tokens)
        ended_by = self.text.stop_string if reason is not None and self.text is not None else None
        self.parts.append(
            Piece(
                text, *columns(fresh, self.rules), reason, top_columns(fresh, self.rules), ended_by
            )
        )

    def end(self, reason: FinishReason) -> None:
        """End it from outside, unless it has ended. What its reader has not taken stays."""
        if self.ended:
            return
        if reason == "cancelled":  # nobody reads a last piece
            self.moments.mark("end")
            self.finish_reason = reason
        else:
            self._finish(reason)

    def fail(self, error: BaseException) -> None:
        """End it with an error, which its reader is told."""
        if not self.ended:
            self.moments.mark("end")
            self.error = error

    def completion(self) -> Completion:
        """All of it. Only for a row that has ended without an error, and gives it whole."""
        if self._whole is not None:
            return self._whole
        assert self.finish_reason is not None
        assert self.text is not None
        text, reason = self.text.pull(last=True), self.finish_reason
        if self.text.stopped and reason == "length":
            reason = "stop"
        self._whole = Completion(
            text,
            *columns(self.tokens, self.rules),
            reason,
            len(self.prompt),
            usage=self.usage,
            used=self.used,
            top_logprobs=top_columns(self.tokens, self.rules),
            stop_string=self.text.stop_string,
            prompt=(Token(int(self.prompt[0])), *self.scored)
            if self.rules.prompt_logprobs
            else None,
        )
        return self._whole

    @property
    def usage(self) -> Usage:
        """What it took so far."""
        drafted, accepted = (
            (0, 0) if self.drafter is None else (self.drafter.drafted, self.drafter.accepted)
        )
        waited, prefill, decode = self.moments.spans()
        return Usage(
            prompt=len(self.prompt),
            reused=self.reused,
            generated=self.produced,
            drafted=drafted,
            accepted=accepted,
            waited=waited,
            prefill=prefill,
            decode=decode,
        )

    def settle(self) -> None:
        """Drop what its seat holds beyond its tokens, or while it runs beyond those drawn from:
        what a step computed that was broken off, or stopped.
        """
        assert self.seat is not None
        most = len(self.prompt) + self.produced - (not self.ended)
        if self.seat.length > most:
            self.seat.rewind(self.seat.length - most)
