"""What a request may ask for, as type checkers see it; :meth:`sc2onnx.Model.generate` explains
each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypedDict

SpecialTokens = Literal["parse", "text"]
"""Whether special tokens spelt out in a prompt are taken as such, or as their characters."""


class GenerationKeywords(TypedDict, total=False):
    """Keywords that every way to call :meth:`sc2onnx.Model.generate` takes."""

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int | None
    stop: str | Sequence[str] | None
    stop_tokens: Iterable[int] | None
    logprobs: bool
    heal: bool
    special_tokens: SpecialTokens
