"""What a request's rules have said of its tokens: log probabilities, and what was likeliest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sc2onnx.runtime.choose.likelihood import likeliest, log_probability
from sc2onnx.runtime.options import GenerationRules
from sc2onnx.runtime.results import Likeliest, Token


def measured(token: int, logits: npt.NDArray[np.float32], rules: GenerationRules) -> Token:
    """A token with its log probability, and those that were asked for besides. logits: (vocab,)."""
    return Token(token, log_probability(logits, token), likeliest(logits, rules.top_logprobs))


def columns(
    tokens: Sequence[Token], rules: GenerationRules
) -> tuple[tuple[int, ...], tuple[float, ...] | None]:
    """Ids, and log probabilities where they were asked for."""
    ids = tuple(token.id for token in tokens)
    if not rules.logprobs:
        return ids, None
    return ids, tuple(token.logprob for token in tokens if token.logprob is not None)


def top_columns(tokens: Sequence[Token], rules: GenerationRules) -> tuple[Likeliest, ...] | None:
    """What was likeliest in the place of each, where that was asked for."""
    return tuple(token.likeliest for token in tokens) if rules.top_logprobs else None
