"""Where one text is within its constraint, as llguidance knows it: what may come next, in how much
time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from sc2onnx.errors import ConstraintError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_SECONDS: Final = 1.0
_SECONDS_A_TOKEN: Final = 0.02
"""That a text's constraint may take: so much, and so much for each token. A usual one takes a
hundredth of that; an ambiguous grammar takes longer from token to token.
"""


class Ends:
    """Tokens that end a text, ``stops``, and the library's own: no other place has any of them."""

    def __init__(self, every: Collection[int], stops: frozenset[int]) -> None:
        self.stops = stops
        self.every = np.array(sorted({*every, *stops}), dtype=np.int64)
        self.ending = np.array(sorted(stops), dtype=np.int64)


class Matcher:
    """Asks the library, one thread at a time. Copies share a lexer, and its lock: a thread that
    holds it calls our tokenizer, and so waits for the interpreter, which another thread holds that
    waits for the lexer.
    """

    def __init__(self, matcher: LLMatcher, tokenizer: LLTokenizer, asking: threading.RLock) -> None:
        self._matcher, self._tokenizer, self._asking = matcher, tokenizer, asking

    def mask(self) -> tuple[npt.NDArray[np.uint8], bool]:
        """For each token 1 where it may come next; and whether the text may end here."""
        with self._asking:
            bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
            checked(self._matcher)
            return np.unpackbits(bits, bitorder="little"), self._matcher.is_accepting()

    def take(self, token: int) -> None:
        """Go on by a token."""
        with self._asking:
            self._matcher.consume_token(token)
            checked(self._matcher)

    def forced(self) -> list[int]:
        """Tokens that have to come next."""
        with self._asking:
            return self._matcher.compute_ff_tokens()

    def agreed(self, tokens: list[int]) -> int:
        """How many of these tokens may come next."""
        with self._asking:
            return self._matcher.validate_tokens(tokens)

    def tokens(self, spelling: bytes) -> list[int]:
        """Bytes as tokens."""
        return self._tokenizer.tokenize_bytes(spelling)

    @property
    def stopped(self) -> bool:
        """Whether nothing can follow."""
        with self._asking:
            return self._matcher.is_stopped() and not self._matcher.is_error()


class GrammarSteering:
    """Where one text is within its constraint, see
    :class:`~sc2onnx.runtime.choose.constrained.Steering`. For whoever has the turn.
    """

    def __init__(self, matcher: Matcher, ends: Ends, failed: Callable[[], None]) -> None:
        """``failed``: called when the constraint is too much for the library."""
        self._matcher, self._ends, self._failed = matcher, ends, failed
        self._bound, self._spent, self._begun = _SECONDS, 0.0, False

    @property
    def complete(self) -> bool:
        """Whether the text satisfies the constraint, and nothing can follow it."""
        return self._begun and self._matcher.stopped

    def allowed(self) -> npt.NDArray[np.int64]:
        """Tokens that may come next; stop tokens only where the text may end. Raises
        :class:`~sc2onnx.errors.ConstraintError`.
        """
        with self._counted():
            allowed, accepting = self._matcher.mask()  # for the vocabulary, or some more
        allowed[self._ends.every] = 0
        if accepting:
            allowed[self._ends.ending] = 1
        found = np.flatnonzero(allowed)
        if not found.size:
            raise ConstraintError(
                "the constraint allows no token here, and no end: correct it, or leave the "
                "checkpoint's end-of-text among stop_tokens"
            )
        return found

    def take(self, token: int) -> None:
        """Go on by a token that was drawn. Raises :class:`~sc2onnx.errors.ConstraintError`."""
        if token not in self._ends.stops:
            self._begun = True
            self._bound += _SECONDS_A_TOKEN
            with self._counted():
                self._matcher.take(token)

    def forced(self, limit: int) -> list[int]:
        """Tokens that have to come next, at most ``limit``."""
        return self._matcher.forced()[:limit]

    def agreed(self, tokens: list[int]) -> int:
        """How many of these tokens may come next, one after the other."""
        return self._matcher.agreed(tokens)

    def permits(self, spelling: bytes) -> bool:
        """Whether the text may go on with these bytes."""
        tokens = self._matcher.tokens(spelling)
        return self._matcher.agreed(tokens) == len(tokens)

    def begin(self, spelling: bytes) -> None:
        """Go on by bytes, which are permitted."""
        for token in self._matcher.tokens(spelling):
            self.take(token)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count the time of the block, and raise what is too slow."""
        began = time.perf_counter()
        try:
            yield
        except ConstraintError:
            self._failed()
            raise
        self._spent += time.perf_counter() - began
        if self._spent > self._bound:
            raise ConstraintError(
                "the constraint takes too long: make its grammar unambiguous, or simplify it"
            )


def checked(matcher: LLMatcher) -> LLMatcher:
    """A matcher without an error. Raises :class:`~sc2onnx.errors.ConstraintError`."""
    if matcher.is_error():
        told = cut(matcher.get_error())
        if "NoExtension" in told:
            told = "no text satisfies it"
        raise ConstraintError(f"the constraint cannot be kept ({told}): correct or simplify it")
    return matcher


def cut(error: object) -> str:
    """What the library says, on one line."""
    said = str(error).replace("<non-verbose/>", "").partition("<backtrace>")[0]
    return " ".join(said.split())[:200]
