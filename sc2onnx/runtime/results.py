"""What generating gives: tokens, pieces of text, completions."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Literal

from sc2onnx.runtime.text.fitting import Surroundings

FinishReason = Literal["stop", "length", "timeout", "cancelled"]
"""``stop``: a stop token or stop string. ``length``: ``max_new_tokens``, or the model's context is
full. ``timeout``: the request's time was up. ``cancelled``: closed before that, by its reader or by
a newer request that takes its place. The text of the last two is whatever had come.
"""


Likeliest = tuple[tuple[int, float], ...]
"""The most likely tokens in a place, the first of them first: (id, log probability)."""


@dataclass(frozen=True, slots=True)
class Token:
    """A generated token, its log probability (nats, under the unfiltered model) and those of the
    ``likeliest`` tokens in its place, where that was asked for.
    """

    id: int
    logprob: float | None = None
    likeliest: Likeliest = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """What a stream gives at a time: text, and the tokens since the piece before; the last one says
    why it ended.

    ``text`` is empty only in a last piece. A stop token is in neither. ``stop_string``: the one of
    those asked for that ended it, if one did.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    finish_reason: FinishReason | None
    top_logprobs: tuple[Likeliest, ...] | None = None
    stop_string: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request took. Tokens: of the ``prompt``, of it ``reused`` from an earlier request,
    ``generated``, ``drafted`` ahead as guesses and ``accepted`` of these. Seconds: ``waited`` until
    it entered, ``prefill`` until its prompt was computed, ``decode`` since then.
    """

    prompt: int = 0
    reused: int = 0
    generated: int = 0
    drafted: int = 0
    accepted: int = 0
    waited: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0


class Measured:
    """What has a :class:`Usage`, and its counts by their longer names."""

    __slots__ = ()

    @property
    @abstractmethod
    def usage(self) -> Usage:
        """What it took, so far where it is under way."""

    @property
    def reused_tokens(self) -> int:
        """How many tokens of the prompt an earlier request had left computed; of a stream known
        from the first part on, 0 before.
        """
        return self.usage.reused

    @property
    def drafted_tokens(self) -> int:
        """How many tokens were computed ahead as guesses."""
        return self.usage.drafted

    @property
    def accepted_tokens(self) -> int:
        """How many of :attr:`drafted_tokens` were right."""
        return self.usage.accepted


@dataclass(frozen=True, slots=True)
class Completion(Measured):
    """A whole generation. ``tokens`` are the generated ones without a stop token; a stop string is
    cut from ``text`` only, and ``stop_string`` says which one it was.

    ``prompt``: the prompt's tokens with their log probabilities, where these were asked for; the
    first has none. ``usage``: what it took. ``used``: what of the code around the cursor was in
    the prompt, for infilling. These say how this was made, not what it is: completions that differ
    in nothing else are equal.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    finish_reason: FinishReason
    prompt_tokens: int
    usage: Usage = field(default=Usage(), compare=False)
    used: Surroundings | None = field(default=None, compare=False)
    top_logprobs: tuple[Likeliest, ...] | None = None
    stop_string: str | None = None
    prompt: tuple[Token, ...] | None = None
