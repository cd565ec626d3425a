"""One sequence of tokens, for embedding applications: append, read logits, rewind."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.facts import ModelFacts
from sc2onnx.errors import (
    CancelledError,
    ContextLengthError,
    RequestError,
    RewindError,
    SequenceStateError,
)
from sc2onnx.runtime.adapter import Adapted
from sc2onnx.runtime.arguments import shown, some_token_ids
from sc2onnx.runtime.engine.loop import Engine
from sc2onnx.runtime.engine.seats import Run
from sc2onnx.runtime.forks import not_portable
from sc2onnx.runtime.memory import not_enough

Logits = Literal["all", "last"] | None
"""Which appended positions want logits: each, the last, or none."""


class TokenSequence:
    """One sequence of tokens and its cache: what ``model.sequence()`` gives to embedding
    applications.

    A context manager; closing frees the cache. One thread at a time, but :meth:`close` is for any
    thread.
    """

    def __init__(self, engine: Engine, facts: ModelFacts, adapted: Adapted | None = None) -> None:
        """``adapted``: with which adapter. Raises :class:`OutOfMemoryError`."""
        engine.process.check()
        self._engine, self._facts, self._adapted = engine, facts, adapted
        try:
            self.seat = engine.seats.new()
        except MemoryError as error:
            raise not_enough(error) from error
        self._busy = threading.RLock()  # a signal handler may find its own thread holding it
        self._worker: int | None = None  # the thread at work
        self._closed = False

    def append(
        self, tokens: Iterable[int] | npt.NDArray[np.integer], logits: Logits = "all"
    ) -> npt.NDArray[np.float32] | None:
        """Append token ids and compute.

        Returns float32 logits: (n, vocab) for ``"all"``, one row per appended token; (1, vocab) for
        ``"last"``; None for None, which also skips the head. Raises :class:`TokenIdError`,
        :class:`EmptyPromptError` and :class:`ContextLengthError` before any work,
        :class:`SequenceStateError` if closed or in use, :class:`CancelledError` if closed
        meanwhile, :class:`InferenceError` and its subclass :class:`OutOfMemoryError`. If a step
        fails, the tokens before it stay appended.
        """
        if logits is not None and (not isinstance(logits, str) or logits not in ("all", "last")):
            raise RequestError(f"logits is {shown(logits)}, expected 'all', 'last' or None")
        ids = some_token_ids(tokens, self._facts.vocab_size, self._facts.context_length)
        return self._append(ids, logits, ids=False)

    def choose(self, tokens: npt.NDArray[np.int64]) -> None:
        """Append tokens (n,), checked, and compute what it takes to choose the next one, which is
        the most likely token where a device finds that: for measurements.
        """
        self._append(tokens, "last", ids=self._engine.seats.chooses)

    def _append(
        self, tokens: npt.NDArray[np.int64], logits: Logits, *, ids: bool
    ) -> npt.NDArray[Any] | None:
        with self._use():
            self._check_context(len(tokens))
            parts, done = list[npt.NDArray[Any]](), 0
            while done < len(tokens):
                size = min(self._engine.bounds.chunk, self.seat.room, len(tokens) - done)
                last = logits == "last" and done + size == len(tokens)
                wanted = size if logits == "all" else int(last)
                parts += self._computed(tokens[done : done + size], wanted, ids)
                done += size
        if logits is None:
            return None
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _computed(
        self, tokens: npt.NDArray[np.int64], wanted: int, ids: bool
    ) -> list[npt.NDArray[Any]]:
        try:
            with self._engine.exclusive():
                if self._closed:
                    raise CancelledError("the sequence was closed while it was computing")
                self._engine.begun(self)
                try:
                    run = Run(self.seat, tokens, wanted, adapted=self._adapted)
                    return self._engine.seats.forward([run], ids=ids)
                finally:
                    self._engine.begun(None)
        except MemoryError as error:
            raise not_enough(error) from error

    def rewind(self, count: int) -> None:
        """Drop the last ``count`` tokens, exactly, without copying. Raises :class:`RewindError`
        where that is impossible.
        """
        context = self._facts.context_length
        whole = isinstance(count, (int, np.integer)) and not isinstance(count, bool)
        if not whole or abs(int(count)) > context:
            raise RewindError(
                f"cannot rewind {shown(count)} tokens of a sequence of {self.length}: give a whole "
                f"number from 0 to {self.length}"
            )
        with self._use():
            self.seat.rewind(int(count))  # numpy's small integers overflow

    @property
    def length(self) -> int:
        """Tokens appended and not rewound."""
        return self.seat.length

    @property
    def rewindable(self) -> int:
        """The most tokens that can be rewound exactly (dropping all of them is always possible
        besides).
        """
        return self.seat.rewindable

    def place(self, depth: int, values: npt.NDArray[Any]) -> None:
        """Be ``depth`` tokens long without having computed them, whose keys and values are
        ``values`` (kv_heads, capacity, width): for measurements.
        """
        with self._use(), self._engine.exclusive():
            self.seat.place(depth, self._engine.bounds.chunk, values)

    def close(self) -> None:
        """Stop a running append and free the cache."""
        self._closed = True
        if self._engine.process.forked:  # another thread may have held the lock at the fork
            return
        self._engine.stop_of(self)
        if self._worker == threading.get_ident():
            return  # in the middle of our own work, by a signal handler: _use frees on its way out
        with self._busy:
            self._free()

    def __len__(self) -> int:
        return self.length

    def __enter__(self) -> TokenSequence:
        return self

    def __reduce__(self) -> str:
        raise not_portable(self)

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _free(self) -> None:
        if self._engine.turn.mine:
            self.seat.clear()
        else:
            with self._engine.exclusive():
                self.seat.clear()

    def _check_context(self, count: int) -> None:
        length, context = self.seat.length, self._facts.context_length
        if length + count > context:
            raise ContextLengthError(
                f"{count} tokens after {length} make {length + count}, the model's context holds "
                f"{context}: shorten the input"
            )

    @contextmanager
    def _use(self) -> Iterator[None]:
        self._engine.process.check()
        if not self._busy.acquire(blocking=False):
            raise SequenceStateError(
                "the sequence is in use by another thread: give each thread its own"
            )
        if self._worker is not None:
            self._busy.release()
            raise SequenceStateError(
                "the sequence is in use further up in this thread: do not use it in a signal "
                "handler, other than to close it"
            )
        self._worker = threading.get_ident()
        try:
            if self._closed:
                raise SequenceStateError("the sequence is closed: make a new one")
            yield
        finally:
            self._worker = None
            if self._closed:
                self._free()
            self._busy.release()
