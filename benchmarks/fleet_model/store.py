"""Caches of finished requests on a node, the least recently used first to go.

What :class:`sc2onnx.runtime.engine.prefix.PrefixStore` finds by comparing tokens is found by name
here: a prompt is that of a file with its cursor at a place, whole or cut, and keys that are typed
there change its last tokens only.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from fleet_model.costs import FULL_TOKENS, TOKEN_BYTES

DEFAULT: Final = 16 * FULL_TOKENS * TOKEN_BYTES
"""Bytes that a server keeps by default: 16 files of full length, 1.1 GB."""


class Text(NamedTuple):
    """What is around a cursor. ``file``: its number; ``place``: counts the moves of the cursor, of
    which each changes a prompt from its beginning on; ``cut``: tokens near the cursor, 0: all.
    """

    file: int
    place: int
    cut: int = 0


class Store:
    """Tokens that are kept of each text, up to ``limit`` bytes."""

    def __init__(self, limit: int = DEFAULT) -> None:
        self._most = limit // TOKEN_BYTES
        self._kept = OrderedDict[Text, int]()
        self._tokens = 0

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""
        return self._tokens * TOKEN_BYTES

    def reach(self, text: Text) -> int:
        """How many tokens of a text are there."""
        return self._kept.get(text, 0)

    def take(self, text: Text) -> int:
        """Take a text's tokens out: how many there are."""
        found = self._kept.pop(text, 0)
        self._tokens -= found
        return found

    def put(self, text: Text, tokens: int) -> None:
        """Keep so many tokens, or those that are there, if they are more."""
        tokens = max(tokens, self.take(text))
        if not tokens:
            return
        self._kept[text] = tokens
        self._tokens += tokens
        while self._tokens > self._most:
            self._tokens -= self._kept.popitem(last=False)[1]

    def clear(self) -> None:
        """Let all go."""
        self._kept.clear()
        self._tokens = 0
