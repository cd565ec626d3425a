"""The tokens of a model by their bytes: which of them a text can go on with."""

from __future__ import annotations

from bisect import bisect_left
from typing import Protocol

import numpy as np
import numpy.typing as npt


class TokenBytes(Protocol):
    """Something that knows what tokens stand for: a :class:`~sc2onnx.runtime.text.codec.Codec`."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes of the text that a token stands for; none for special tokens."""
        ...


class Vocabulary:
    """The tokens of a codec by their bytes, special ones left out.
    Immutable; made once, in a tenth of a second.
    """

    def __init__(self, codec: TokenBytes, size: int) -> None:
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
        """Ids of the tokens that ``rest``, followed by whatever, can begin with: those that begin
        with it, and those that it begins with.
        """
        inside = [
            token
            for length in range(1, len(rest))
            for token in self._between(rest[:length], rest[:length] + b"\0")
        ]
        return np.array(inside + self.beginning_with(rest), dtype=np.int64)

    def _between(self, first: bytes, end: bytes) -> list[int]:
        """Ids of the tokens from ``first`` on and before ``end``, in the order of bytes."""
        return [
            token
            for _, token in self._sorted[
                bisect_left(self._spellings, first) : bisect_left(self._spellings, end)
            ]
        ]


def _past(start: bytes) -> bytes:
    """What comes after everything that begins with ``start``: 0xFF is in no text that is UTF-8."""
    return start + b"\xff" * 8
