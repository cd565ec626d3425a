"""Tokens -> logits, incrementally: a cache, a bound step, and how a long prompt is cut."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.facts import ModelFacts
from sc2onnx.errors import ContextLengthError, SequenceStateError
from sc2onnx.runtime.cache import RingCache
from sc2onnx.runtime.prefix import Kept, PrefixStore
from sc2onnx.runtime.session import Session
from sc2onnx.runtime.step import Step

Logits = Literal["all", "last"] | None
"""Which appended positions want logits: each, the last, or none."""


class Decoder:
    """Some rows of tokens, each as far as it has come, decoded together. Token level: it neither samples nor stops.

    One thread at a time; :meth:`close` is for any thread, and stops a running step.
    """

    def __init__(self, session: Session, facts: ModelFacts, cache: RingCache, chunk: int, store: PrefixStore | None = None) -> None:
        """``chunk``: the most tokens of a row in one step; a longer append is cut.

        ``store``: where :meth:`prefill` looks for the beginning of a prompt, and where the cache of a single row, prefilled, goes in the end.
        """
        self._session, self._facts, self._chunk, self._store = session, facts, chunk, store
        self.cache = cache
        self.reused = 0
        """Tokens of the prompt that were not computed again."""
        self._asked = 0  # tokens of the prompt; 0 before a prefill
        self._held = np.empty(facts.context_length if store else 0, dtype=np.int64)  # tokens; as many count as the cache is long
        self._busy = threading.RLock()  # a signal handler may find its own thread holding it
        self._worker: int | None = None  # the thread at work
        self._step: Step | None = None
        self._bound = -1  # generation of the cache that _step is bound to
        self._closed = False

    @property
    def chooses(self) -> bool:
        """Whether it can be asked for the most likely tokens instead of logits, which is less to move."""
        return self._session.chooses

    def append(self, tokens: npt.NDArray[np.int64], logits: Logits = "all", *, ids: bool = False) -> npt.NDArray[Any] | None:
        """tokens (rows, n), checked, -> float32 logits (rows, n or 1, vocab), or the most likely ``ids``, int64 (rows, n or 1).

        An id is -1 where logits are no numbers.
        Cut into steps that keep the sliding window exact. If a step fails, the tokens before it stay appended.
        """
        with self._use():
            return self._append(tokens, logits, ids)

    def prefill(self, prompt: npt.NDArray[np.int64], *, ids: bool = False) -> npt.NDArray[Any]:
        """prompt (n,), checked, of a single row, empty where there is a store -> float32 logits of its last token (1, 1, vocab).

        ``ids``: instead the most likely token, int64 (1, 1).

        What it shares with a kept sequence is not computed again (:mod:`sc2onnx.runtime.prefix`).
        The logits are the same, in integers to the last bit, because all of a prompt is computed in
        steps that agree with each other (:mod:`sc2onnx.bundle.steps`).
        """
        with self._use():
            if self._store is not None:
                assert self.cache.length() == 0
                self._asked = len(prompt)
                if (cache := self._store.take(prompt)) is not None:
                    self.reused = cache.length()
                    self._held[: self.reused] = prompt[: self.reused]
                    self.cache, self._step = cache, None
            logits = self._append(prompt[None, self.reused :], "last", ids, evenly=self._session.even_steps)
            assert logits is not None
            return logits

    @property
    def longest_step(self) -> int:
        """The most tokens that can be appended in one step, to all rows, by the chunk, the window and the context; 0 where it is full."""
        return min(self._chunk, self.cache.longest_step(), self._facts.context_length - int(self.cache.lengths.max()))

    def cancel(self) -> bool:
        """Close it without waiting for a running step, which stops: its thread then frees the
        cache. Whether no step was running, so that the cache is free already.
        """
        self._closed = True
        if self._session.process.forked:  # as in :meth:`close`
            return True
        if (step := self._step) is not None:
            step.cancel()
        if self._worker != threading.get_ident() and self._busy.acquire(blocking=False):
            try:
                self._free()
            finally:
                self._busy.release()
            return True
        return False

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
        """Stop a running step and free the cache, or leave it to the store; nothing can be appended afterwards. Closing twice is fine."""
        self._closed = True
        if self._session.process.forked:  # another thread may have held the lock at the fork, and no thread is left to stop
            return
        if (step := self._step) is not None:
            step.cancel()
        if self._worker == threading.get_ident():
            return  # called in the middle of our own work, by a signal handler: _use frees the cache on its way out
        with self._busy:
            self._free()

    def check_process(self) -> None:
        """Raise :class:`~sc2onnx.errors.ForkedError` in a child forked since the model was loaded."""
        self._session.process.check()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def _append(self, tokens: npt.NDArray[np.int64], logits: Logits, ids: bool, *, evenly: bool = False) -> npt.NDArray[Any] | None:
        """``evenly``: in steps of an even number of tokens, as :meth:`_run` makes them."""
        self._check_context(tokens.shape[1])
        parts, done, total = [], 0, tokens.shape[1]
        while done < total:
            size = min(self._chunk, self.cache.longest_step(), total - done)
            if evenly and 1 < size < total - done:
                size -= size % 2
            wanted = size if logits == "all" else int(logits == "last" and done + size == total)
            parts.append(self._run(tokens[:, done : done + size], wanted, ids, evenly=evenly))
            done += size
        return None if logits is None else np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]

    def _has_room(self, step: int) -> bool:
        return step <= min(self.cache.longest_step(), self._facts.context_length - int(self.cache.lengths.max()))

    def _run(self, tokens: npt.NDArray[np.int64], wanted: int, ids: bool, *, evenly: bool = False) -> npt.NDArray[Any]:
        """``evenly``: make a step even by computing its last token twice.

        The second time it stands behind the first, where the next step writes over it. The head is
        then given an even number of tokens as well.
        """
        size = tokens.shape[1]
        extra = int(evenly and size % 2 == 1 and self._has_room(size + 1))
        step = np.concatenate([tokens, tokens[:, -1:]], axis=1) if extra else tokens
        asked = min(wanted + wanted % 2, step.shape[1]) if evenly else wanted
        self.cache.begin(step.shape[1])
        if self._step is None or self._bound != self.cache.generation:
            self._step, self._bound = self._session.bind(self.cache.buffers), self.cache.generation
        if self._closed:  # close() saw the step before, or sees this one
            self._step.cancel()
        result = self._step.run(step, self.cache.lengths, asked, ids=ids)[:, max(0, asked - extra - wanted) :][:, :wanted]
        if self._asked:
            first = self.cache.length()  # what follows it counts only once it is committed
            self._held[first : first + tokens.shape[1]] = tokens[0]
            if not (np.isfinite(result) if result.dtype.kind == "f" else result >= 0).all():
                self._asked = 0  # values that are not finite would spoil whatever is computed after them: not to be kept
        self.cache.commit(tokens.shape[1])
        return result

    def _check_context(self, count: int) -> None:
        longest, context = int(self.cache.lengths.max()), self._facts.context_length
        if longest + count > context:
            raise ContextLengthError(f"{count} tokens after {longest} make {longest + count}, the model's context holds {context}: shorten the input")

    def _free(self) -> None:
        self._step = None
        cache = self.cache
        if self._store is not None and self._asked and cache.rows == 1 and (length := self._worth_keeping()):
            self.cache = RingCache(cache.shape, rows=0, storage=cache.storage)
            cache.rewind(cache.length() - length)
            self._store.put(Kept(self._held[:length].copy(), min(self._asked, length), cache))
        else:
            cache.clear()

    def _worth_keeping(self) -> int:
        """How many tokens a later prompt may take over.

        Only the prompt's, where steps of one token, which generated the others, do not agree with a prompt's.
        """
        length = self.cache.length()
        kept = min(self._asked, length) if self._session.even_steps else length
        return kept if length - kept <= self.cache.rewindable() else 0

    @contextmanager
    def _use(self) -> Iterator[None]:
        self.check_process()
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
