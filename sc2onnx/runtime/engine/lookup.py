"""Texts, and what followed their tokens: the guesses that drafts are made of.

A guess is the token that most often followed the last tokens when they stood somewhere before, the
more so the longer the match. It looks in the text that is being written and in earlier texts of the
same model: other files that were completed, and what came of it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

LONGEST: Final = 32
"""Tokens of a match that count: longer ones are not surer."""

_CANDIDATES: Final = 16
"""Earlier places of a pair of tokens that are compared, the latest ones of each text."""

_SINGLE: Final = 8
"""Places of a single token, where its pair is new."""

_NEAR: Final = 24
"""After a run of copied tokens broke off, it may go on within so many tokens of its source: a name
was replaced, an argument added.
"""

_NEAR_BONUS: Final = 3
"""What standing there is worth, in tokens of a match."""

_BASE: Final = 8.0
"""How many times as much a match counts that is a token longer."""

MEMORY: Final = 65_536
"""Tokens of earlier texts that are looked into, by default."""

MOST_TEXTS: Final = 64
"""Earlier texts that are looked into: each is asked for each guess, which thousands of short ones
would make slower than computing a token.
"""

_SAME: Final = 0.9
"""A text takes the place of an earlier one if so much of the shorter
one's beginning is the same.
"""


class Text:
    """A growing sequence of tokens, and where its pairs and its tokens stand.
    ``namespace``: whose it is.
    """

    def __init__(self, tokens: Iterable[int] = (), namespace: str | None = None) -> None:
        self.tokens, self.namespace = list(tokens), namespace
        self._pairs: dict[tuple[int, int], list[int]] = {}  # -> positions that follow it
        self._singles: dict[int, list[int]] = {}
        for place, token in enumerate(self.tokens[:-1], 1):
            self._singles.setdefault(token, []).append(place)
        for place, pair in enumerate(pairwise(self.tokens[:-1]), 2):
            self._pairs.setdefault(pair, []).append(place)

    def append(self, token: int) -> None:
        """Append a token: what followed the last ones is known now."""
        size = len(self.tokens)
        self.tokens.append(token)  # first: another thread that finds the place finds the token
        if size >= 1:
            self._singles.setdefault(self.tokens[size - 1], []).append(size)
        if size >= 2:
            self._pairs.setdefault((self.tokens[size - 2], self.tokens[size - 1]), []).append(size)

    def places(self, tail: Sequence[int]) -> list[int]:
        """Return positions of tokens that followed the last two of ``tail``, or else the
        last one; the latest of them.
        """
        if len(tail) >= 2 and (found := self._pairs.get((tail[-2], tail[-1]))):
            return found[-_CANDIDATES:]
        return self._singles.get(tail[-1], [])[-_SINGLE:]

    def agreement(self, place: int, tail: Sequence[int]) -> int:
        """Return how many tokens before ``place`` are those at the end of
        ``tail``, :data:`LONGEST` at most.
        """
        length, most = 0, min(LONGEST, place, len(tail))
        while length < most and self.tokens[place - 1 - length] == tail[-1 - length]:
            length += 1
        return length

    def begins_like(self, tokens: Sequence[int]) -> bool:
        """Whether the shorter of both begins like the other, nearly all of it."""
        shorter = min(len(self.tokens), len(tokens))
        same = next((i for i in range(shorter) if self.tokens[i] != tokens[i]), shorter)
        return shorter > 0 and same >= _SAME * shorter


class Memory:
    """The latest texts of a model, up to ``limit`` tokens together and :data:`MOST_TEXTS`.
    For several threads.
    """

    def __init__(self, limit: int = MEMORY) -> None:
        self.limit = limit
        self._texts: deque[Text] = deque()
        self._lock = threading.Lock()

    def begin(self, tokens: Sequence[int], namespace: str | None = None) -> Text:
        """Return a new text, which is kept as it grows; one that begins alike is an
        earlier state of it, and goes.
        """
        text = Text(tokens, namespace)
        if not self.limit:
            return text
        with self._lock:
            kept = deque(
                old
                for old in self._texts
                if old.namespace != namespace or not old.begins_like(text.tokens)
            )
            kept.append(text)
            total = sum(len(each.tokens) for each in kept)
            while len(kept) > 1 and (total > self.limit or len(kept) > MOST_TEXTS):
                total -= len(kept.popleft().tokens)
            self._texts = kept  # whole: others() has no lock
        return text

    def others(self, text: Text) -> list[Text]:
        """Return the texts of its namespace but this one."""
        return [
            each for each in self._texts if each is not text and each.namespace == text.namespace
        ]

    def clear(self) -> None:
        """Forget all texts."""
        with self._lock:
            self._texts = deque()


@dataclass(frozen=True, slots=True)
class Guess:
    """A token that may come next. ``length``: of the longest match before it;
    ``share``: of all votes, 0 to 1.
    """

    token: int
    length: int
    share: float


class Lookup:
    """Guesses of what follows a text, from itself and from others."""

    def __init__(self, text: Text, others: Sequence[Text] = ()) -> None:
        self.text, self.others = text, others
        self._source: tuple[Text, int] | None = None  # where what was copied last would go on

    @classmethod
    def of(
        cls,
        tokens: Sequence[int],
        memory: Memory | None = None,
        namespace: str | None = None,
        prediction: Sequence[int] = (),
    ) -> Lookup:
        """Return one over a new text of ``memory``.
        ``prediction``: tokens that somebody thinks will come, looked up behind the end of the text.
        """
        if memory is None:
            return cls(Text(tokens))
        text = memory.begin(tokens, namespace)
        predicted = [Text([*tokens[-LONGEST:], *prediction])] if prediction else []
        return cls(text, [*memory.others(text), *predicted])

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens that were given."""
        for token in tokens:
            if self._source is not None:
                source, place = self._source
                if place < len(source.tokens):  # a token that the source lacks does not move it on
                    self._source = source, place + (source.tokens[place] == token)
            self.text.append(token)

    def guesses(self) -> Iterator[Guess]:
        """Return tokens that may come next, one after the other, each after those before it.
        Ends where nothing is known.
        """
        tail = self.text.tokens[-LONGEST:]
        first = True
        while tail and (found := self._vote(tail, near=first)) is not None:
            guess, source = found
            if first:
                self._source, first = source, False
            yield guess
            tail.append(guess.token)

    def _vote(self, tail: list[int], near: bool) -> tuple[Guess, tuple[Text, int]] | None:
        """The token with most votes, and the place of the latest vote for it."""
        votes: dict[int, float] = {}
        longest: dict[int, int] = {}
        sources: dict[int, tuple[Text, int]] = {}
        for text, place, bonus in self._candidates(tail, near):
            token, length = text.tokens[place], text.agreement(place, tail)
            votes[token] = votes.get(token, 0.0) + _BASE ** (length + bonus)
            longest[token] = max(longest.get(token, 1), length)
            sources[token] = text, place
        if not votes:
            return None
        best = max(votes, key=lambda token: votes[token])
        return Guess(best, longest[best], votes[best] / sum(votes.values())), sources[best]

    def _candidates(self, tail: list[int], near: bool) -> Iterator[tuple[Text, int, int]]:
        for text in (*self.others, self.text):  # the text itself has the last word
            yield from ((text, place, 0) for place in text.places(tail))
        if near and self._source is not None:
            text, place = self._source
            end = min(place + _NEAR, len(text.tokens))
            yield from (
                (text, at, _NEAR_BONUS)
                for at in range(max(1, place), end)
                if text.tokens[at - 1] == tail[-1]
            )
