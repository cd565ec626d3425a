"""Tokens -> logits, incrementally: a cache, a bound step, and how a long prompt is cut."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import numpy.typing as npt

from sc2onnx.errors import ContextLengthError, SequenceStateError
from sc2onnx.manifest import ModelFacts
from sc2onnx.runtime.cache import RingCache
from sc2onnx.runtime.session import Session, Step

Logits = Literal["all", "last"] | None
"""Which appended positions want logits: each, the last, or none."""


class Decoder:
    """Some rows of tokens, each as far as it has come, decoded together. Token level: it neither samples nor stops.

    One thread at a time; :meth:`close` is for any thread, and stops a running step.
    """

    def __init__(self, session: Session, facts: ModelFacts, cache: RingCache, chunk: int) -> None:
        """``chunk``: the most tokens of a row in one step; a longer append is cut."""
        self._session, self._facts, self._chunk = session, facts, chunk
        self.cache = cache
        self._busy = threading.RLock()  # a signal handler may find its own thread holding it
        self._worker: int | None = None  # the thread at work
        self._step: Step | None = None
        self._bound = -1  # generation of the cache that _step is bound to
        self._closed = False

    def append(self, tokens: npt.NDArray[np.int64], logits: Logits = "all") -> npt.NDArray[np.float32] | None:
        """tokens (rows, n), checked, -> float32 logits (rows, n or 1, vocab).

        Cut into steps that keep the sliding window exact. If a step fails, the tokens before it stay appended.
        """
        with self._use():
            self._check_context(tokens.shape[1])
            parts, done, total = [], 0, tokens.shape[1]
            while done < total:
                size = min(self._chunk, self.cache.longest_step(), total - done)
                wanted = size if logits == "all" else int(logits == "last" and done + size == total)
                parts.append(self._run(tokens[:, done : done + size], wanted))
                done += size
            return None if logits is None else np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]

    @property
    def longest_step(self) -> int:
        """The most tokens that can be appended in one step, to all rows, by the chunk, the window and the context; 0 where it is full."""
        return min(self._chunk, self.cache.longest_step(), self._facts.context_length - int(self.cache.lengths.max()))

    def rewind(self, count: int, row: int = 0) -> None:
        """See :meth:`RingCache.rewind`."""
        with self._use():
            self.cache.rewind(count, row)

    def keep(self, rows: Sequence[int]) -> None:
        """See :meth:`RingCache.keep`."""
        with self._use():
            self.cache.keep(rows)

    def join(self, others: Sequence[Decoder]) -> None:
        """Take over the rows of other decoders, which are closed."""
        with self._use():
            for decoder in (self, *others):
                decoder._step = None  # a bound step keeps its buffers, and stacking frees them one by one
            self.cache = RingCache.stack([self.cache, *(other.cache for other in others)])
        for other in others:
            other.close()

    def close(self) -> None:
        """Stop a running step and free the cache; nothing can be appended afterwards. Closing twice is fine."""
        self._closed = True
        if (step := self._step) is not None:
            step.cancel()
        if self._worker == threading.get_ident():
            return  # called in the middle of our own work, by a signal handler: _use frees the cache on its way out
        with self._busy:
            self._free()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def _run(self, tokens: npt.NDArray[np.int64], wanted: int) -> npt.NDArray[np.float32]:
        self.cache.begin(tokens.shape[1])
        if self._step is None or self._bound != self.cache.generation:
            self._step, self._bound = self._session.bind(self.cache.buffers), self.cache.generation
        if self._closed:  # close() saw the step before, or sees this one
            self._step.cancel()
        result = self._step.run(tokens, self.cache.lengths, wanted)
        self.cache.commit(tokens.shape[1])
        return result

    def _check_context(self, count: int) -> None:
        longest, context = int(self.cache.lengths.max()), self._facts.context_length
        if longest + count > context:
            raise ContextLengthError(f"{count} tokens after {longest} make {longest + count}, the model's context holds {context}: shorten the input")

    def _free(self) -> None:
        self._step = None
        self.cache.clear()

    @contextmanager
    def _use(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise SequenceStateError("the sequence is in use by another thread: give each thread its own")
        if self._worker is not None:
            self._busy.release()
            raise SequenceStateError("the sequence is in use further up in this thread: do not use it in a signal handler, other than to close it")
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
