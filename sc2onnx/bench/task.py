"""What is timed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from sc2onnx.errors import RequestError

Kind = Literal["decode", "step", "prefill", "first token"]

PROMPT: Final = 64
"""Tokens of the prompt whose first token is waited for."""

_TIMES: Final = {"decode": 8, "step": 3, "prefill": 1, "first token": 1}


@dataclass(frozen=True, slots=True)
class Task:
    """Appending ``tokens`` tokens at once, logits for the last, so that the sequence
    then has ``context`` of them.

    A prefill and the prompt of a first token begin at nothing; a decode is a step of one token.
    """

    kind: Kind
    context: int
    tokens: int

    def __post_init__(self) -> None:
        if self.context <= self.tokens and self.kind in ("decode", "step"):
            raise RequestError(
                f"the context is {self.context} for a step of {self.tokens} tokens, "
                "expected more tokens than that"
            )

    @property
    def depth(self) -> int:
        """Tokens before."""
        return self.context - self.tokens

    @property
    def times(self) -> int:
        """How often it is timed in a round; the mean counts."""
        return _TIMES[self.kind]

    @property
    def warm(self) -> bool:
        """Whether a round begins with an untimed one: another engine has
        had the processor's caches.
        """
        return self.kind in ("decode", "step")

    def __str__(self) -> str:
        if self.kind == "decode":
            return f"decode at {self.context:,}"
        if self.kind == "step":
            return f"step of {self.tokens} at {self.context:,}"
        return f"{self.kind} of {self.tokens:,}"
