"""Caches of finished requests, kept for later ones that begin with the same tokens.
Bookkeeping over numpy arrays only.

A kept sequence serves a prompt as far as both have the same tokens, if its cache can be rewound to
there exactly. What becomes of it is decided by what rewinding would destroy: its tokens past the
shared ones, as far as a person asked for them (what the model wrote goes cheaply) and the prompt
does not bring them back at its end.

- Little of that, or less than what comes back: the same text, edited. The cache itself
  is rewound and taken over.
- Otherwise another text with the same beginning, such as two files of a repository: the
  beginning is copied, both live on.
- A beginning too short to be worth a copy: the request starts from nothing.

Worked example, prompts of fill-in-the-middle: 3000 tokens of context, 400 before the cursor, 600
after it. A typed character shares 3399 tokens and brings 601 back: taken. Another file after the
same context shares 3000 and would destroy 1000: copied. Copying moves memory, some microseconds a
token; computing takes milliseconds (docs/decisions/0010-prefix-reuse.md).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from sc2onnx.runtime.engine.seats import Seat

SEQUENCES: Final = 2
"""Of the full capacity, that are kept by default: the file that is edited and another one."""

_LITTLE: Final = 64
"""Tokens that may be destroyed without asking for more: less than one step of a
prefill computes them again.
"""

_WORTH_A_COPY: Final = 16
"""Shared tokens below which a copy gains nothing: a prompt's step costs
the same with so many more.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """A finished request: the tokens (n,) that its seat holds, and how many of them the request
    asked for. ``namespace``: whose it was, and with which adapter; it serves no other.
    """

    tokens: npt.NDArray[np.int64]
    asked: int
    seat: Seat
    namespace: Hashable = None

    def __post_init__(self) -> None:
        assert len(self.tokens) == self.seat.length

    def covers(self, other: Kept) -> bool:
        """Whether this one serves every prompt as well as ``other`` does."""
        size = len(other.tokens)
        if self.namespace != other.namespace:
            return False
        return (
            len(self.tokens) >= size
            and bool((self.tokens[:size] == other.tokens).all())
            and self.seat.earliest <= other.seat.earliest
        )


@dataclass(frozen=True, slots=True)
class Match:
    """How a kept sequence suits a prompt: ``shared`` tokens to begin with, and how many of those
    asked for would be ``lost`` or come ``back``.
    """

    shared: int
    lost: int
    back: int

    @classmethod
    def of(cls, kept: Kept, prompt: npt.NDArray[np.int64]) -> Match:
        """The last token of the prompt is never shared: its logits are wanted."""
        shared = min(common(kept.tokens, prompt), len(prompt) - 1)
        asked = kept.tokens[shared : kept.asked]
        back = common(asked[::-1], prompt[shared:][::-1])
        return cls(shared, len(asked) - back, back)

    @property
    def edited(self) -> bool:
        """Whether the prompt is the kept text, edited, so that nobody will
        ask for what was kept again.
        """
        return self.lost <= max(self.back, min(self.shared, _LITTLE))

    @property
    def useful(self) -> bool:
        """Whether it saves work."""
        return self.shared >= (1 if self.edited else _WORTH_A_COPY)


class PrefixStore:
    """Kept sequences up to ``limit`` bytes of caches, the least recently used first to go.
    For any number of threads.

    A cache that was given out is its taker's alone. The lock is reentrant, and each sequence is
    claimed by one removal: a signal handler or the garbage collector may close a stream, which puts
    its cache here, in the middle of anything.
    """

    def __init__(self, limit: int) -> None:
        """``evicted``: sequences that were let go for lack of room."""
        self.limit, self.evicted = limit, 0
        self._kept: dict[int, Kept] = {}  # in order of use; by identity
        self._lock = threading.RLock()

    @property
    def sequences(self) -> list[Kept]:
        """Those kept now, the least recently used first."""
        return list(self._kept.values())

    @property
    def seats(self) -> list[Seat]:
        """Those kept now."""
        return [kept.seat for kept in list(self._kept.values())]

    @property
    def nbytes(self) -> int:
        """Bytes of the caches kept now."""
        return sum(seat.nbytes for seat in self.seats)

    def take(self, prompt: npt.NDArray[np.int64], namespace: Hashable = None) -> Seat | None:
        """A seat with the longest beginning of prompt (n,) that some sequence of the namespace has
        exactly, up to n - 1 tokens; None: there is none.
        """
        found = self._claim(prompt, namespace)
        if found is None:
            return None
        kept, match = found
        if match.edited:
            return self._rewound(kept, match.shared)
        try:
            copy = kept.seat.copy(match.shared, len(prompt))
        except MemoryError:
            return self._rewound(kept, match.shared)  # which takes none
        except BaseException:  # a signal handler's
            self.put(kept)
            raise
        self.put(kept)
        return copy

    def reach(self, prompt: npt.NDArray[np.int64], namespace: Hashable = None) -> int:
        """How many tokens of prompt (n,) :meth:`take` would find computed."""
        with self._lock:
            return max((match.shared for _, match in self._suited(prompt, namespace)), default=0)

    def put(self, kept: Kept) -> None:
        """Keep a sequence, or let it go: if it is too large, or says nothing that another does not.
        Its seat is the store's from now on.
        """
        with self._lock:
            others = list(self._kept.values())
            better = next((other for other in others if other.covers(kept)), None)
            # else it was given out just now
            if better is not None and self._kept.pop(id(better), None) is not None:
                kept = replace(better, asked=max(better.asked, kept.asked))
            for other in others:
                if kept.covers(other):
                    kept = replace(kept, asked=max(kept.asked, other.asked))
                    self._kept.pop(id(other), None)
            if kept.seat.nbytes <= self.limit:
                self._kept[id(kept)] = kept
            while self.nbytes > self.limit:
                self.evicted += self._kept.pop(next(iter(self._kept), 0), None) is not None

    def forget(self, which: Callable[[Hashable], bool] = lambda _: True) -> None:
        """Let all go, or those of the namespaces that ``which`` says."""
        with self._lock:
            for number, kept in list(self._kept.items()):
                if which(kept.namespace):
                    self._kept.pop(number, None)

    def _claim(
        self, prompt: npt.NDArray[np.int64], namespace: Hashable
    ) -> tuple[Kept, Match] | None:
        """The sequence that suits the prompt best, out of the store.
        Of equals the one that loses least, then the latest.
        """
        with self._lock:
            suited = self._suited(prompt, namespace)
            if not suited:
                return None
            best = max(suited, key=lambda found: (found[1].shared, -found[1].lost))
            return best if self._kept.pop(id(best[0]), None) is not None else None

    def _suited(
        self, prompt: npt.NDArray[np.int64], namespace: Hashable
    ) -> list[tuple[Kept, Match]]:
        own = [kept for kept in reversed(list(self._kept.values())) if kept.namespace == namespace]
        matches = [(kept, Match.of(kept, prompt)) for kept in own]
        return [
            (kept, match)
            for kept, match in matches
            if match.useful and kept.seat.earliest <= match.shared
        ]

    @staticmethod
    def _rewound(kept: Kept, length: int) -> Seat:
        kept.seat.rewind(len(kept.tokens) - length)
        return kept.seat


def common(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> int:
    """How many tokens both begin with."""
    size = min(len(a), len(b))
    differing = np.flatnonzero(a[:size] != b[:size])
    return int(differing[0]) if differing.size else size
