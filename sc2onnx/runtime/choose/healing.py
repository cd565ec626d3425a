"""Token healing: a prompt that ends inside a word goes on as if it did not.

A tokenizer cuts ``print(ite`` so that its end, ``ite``, is a token by itself. The model has hardly
ever seen that token before ``ms``: what is usual there is one token, ``items``, and so it goes on
badly. Healing takes the last tokens of the prompt back and lets the model choose tokens again, of
those only that repeat what was taken back, and may go beyond it (Lundberg 2023, "The art of prompt
design: prompt boundaries and token healing").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from sc2onnx.runtime.choose.chooser import Chooser
from sc2onnx.runtime.choose.constrained import Constrained, Steering, only
from sc2onnx.runtime.choose.vocabulary import TokenBytes, Vocabulary

MOST: Final = 4
"""Tokens that are taken back at most. Words of code seldom take more."""


HEALED: Final = 1 << 16
"""Characters at the end of a text that are tokenized to see what is taken back; from a line
break on, where there is one.
"""


def taken_back(codec: TokenBytes, vocabulary: Vocabulary, tokens: Sequence[int]) -> str:
    """The text of the last tokens, of as many (:data:`MOST`) as some single token might stand for
    together with what follows; often none.

    After ``print(`` and ``ite`` it is ``ite``, if that begins a longer token, and ``(ite`` does
    not. The first token always stays.
    """
    found, end = "", b""
    for token in reversed(tokens[1:][-MOST:]):
        spelling = codec.token_bytes(token)
        if not spelling:  # a special token
            break
        end = spelling + end
        if vocabulary.go_beyond(end) and (text := _text(end)):
            found = text
    return found


class Healing:
    """A sampler that first repeats a text, in tokens of the model's choice among those that can,
    and then is the one it wraps. What a token has beyond that text keeps the sampler's constraint.
    """

    def __init__(
        self, sampler: Chooser, codec: TokenBytes, vocabulary: Vocabulary, text: str
    ) -> None:
        self._sampler = sampler
        self._free: Chooser = sampler
        self._steering: Steering | None = None
        if isinstance(sampler, Constrained):
            self._free, self._steering = sampler.sampler, sampler.steering
        self._codec, self._vocabulary = codec, vocabulary
        self._rest = text.encode()

    def draw(self, logits: npt.NDArray[np.float32]) -> int:
        """A token from logits (vocab,), which are left alone."""
        if not self._rest:
            return self._sampler.draw(logits)
        token = self._free.draw(only(logits, self._allowed()))
        spelling, rest = self._codec.token_bytes(token), self._rest
        self._rest = rest[len(spelling) :]
        if self._steering is not None and len(spelling) > len(rest):
            self._steering.begin(spelling[len(rest) :])
        return token

    def _allowed(self) -> npt.NDArray[np.int64]:
        """Tokens that can repeat the rest; beyond it they keep the constraint."""
        tokens = self._vocabulary.compatible(self._rest)
        if self._steering is None:
            return tokens
        length = len(self._rest)
        beyond = (self._codec.token_bytes(token)[length:] for token in tokens.tolist())
        kept = [not spelling or self._steering.permits(spelling) for spelling in beyond]
        return tokens[np.array(kept, dtype=np.bool_)]


def _text(spelling: bytes) -> str:
    """Empty where it begins inside a character."""
    try:
        return spelling.decode()
    except UnicodeDecodeError:
        return ""
