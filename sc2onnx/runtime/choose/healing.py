"""Token healing: a prompt that ends inside a word goes on as if it did not.

A tokenizer cuts ``print(ite`` so that its end, ``ite``, is a token by itself. The model has hardly ever seen that token before ``ms``: what is
usual there is one token, ``items``, and so it goes on badly. Healing takes the last tokens of the prompt back and lets the model choose
tokens again, of those only that repeat what was taken back, and may go beyond it (Lundberg 2023, "The art of prompt design:
prompt boundaries and token healing").
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from sc2onnx.runtime.generate import Draws
from sc2onnx.runtime.text.codec import Codec

MOST: Final = 4
"""Tokens that are taken back at most. Words of code seldom take more."""


HEALED: Final = 1 << 16
"""Characters at the end of a text that are tokenized to see what is taken back; from a line break on, where there is one."""


class Vocabulary:
    """The tokens of a codec by their bytes, special ones left out. Immutable; made once, in a tenth of a second."""

    def __init__(self, codec: Codec, size: int) -> None:
        """``size``: how many ids the model has logits for."""
        spelt = ((codec.token_bytes(token), token) for token in range(size))
        self._sorted = sorted(entry for entry in spelt if entry[0])
        self._spellings = [spelling for spelling, _ in self._sorted]

    def beginning_with(self, start: bytes) -> list[int]:
        """Ids of the tokens that begin with ``start``, itself included."""
        return self._between(start, _past(start))

    def go_beyond(self, start: bytes) -> bool:
        """Whether some token begins with ``start`` and is longer."""
        return bool(self._between(start + b"\0", _past(start)))

    def compatible(self, rest: bytes) -> npt.NDArray[np.int64]:
        """Ids of the tokens that ``rest``, followed by whatever, can begin with: those that begin with it, and those that it begins with."""
        inside = [token for length in range(1, len(rest)) for token in self._between(rest[:length], rest[:length] + b"\0")]
        return np.array(inside + self.beginning_with(rest), dtype=np.int64)

    def _between(self, first: bytes, end: bytes) -> list[int]:
        """Ids of the tokens from ``first`` on and before ``end``, in the order of bytes."""
        return [token for _, token in self._sorted[bisect_left(self._spellings, first) : bisect_left(self._spellings, end)]]


def taken_back(codec: Codec, vocabulary: Vocabulary, tokens: Sequence[int]) -> str:
    """The text of the last tokens, of as many (:data:`MOST`) as some single token might stand for together with what follows; often none.

    After ``print(`` and ``ite`` it is ``ite``, if that begins a longer token, and ``(ite`` does not. The first token always stays.
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
    """A sampler that first repeats a text, in tokens of the model's choice among those that can, and then is the one it wraps."""

    def __init__(self, sampler: Draws, codec: Codec, vocabulary: Vocabulary, text: str) -> None:
        self._sampler, self._codec, self._vocabulary = sampler, codec, vocabulary
        self._rest = text.encode()

    def draw(self, logits: npt.NDArray[np.float32]) -> int:
        """A token from logits (vocab,), which are left alone."""
        if not self._rest:
            return self._sampler.draw(logits)
        allowed = self._vocabulary.compatible(self._rest)
        scores = np.full_like(logits, -np.inf)
        scores[allowed] = logits[allowed]
        token = self._sampler.draw(scores)
        self._rest = self._rest[len(self._codec.token_bytes(token)) :]
        return token


def _past(start: bytes) -> bytes:
    """What comes after everything that begins with ``start``: 0xFF is in no text that is UTF-8."""
    return start + b"\xff" * 8


def _text(spelling: bytes) -> str:
    """Empty where it begins inside a character."""
    try:
        return spelling.decode()
    except UnicodeDecodeError:
        return ""
