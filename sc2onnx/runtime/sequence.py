"""One sequence of tokens, for embedding applications: append, read logits, rewind."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.facts import ModelFacts
from sc2onnx.errors import RequestError, RewindError
from sc2onnx.runtime.arguments import shown, some_token_ids
from sc2onnx.runtime.decoder import Decoder, Logits
from sc2onnx.runtime.forks import not_portable
from sc2onnx.runtime.memory import not_enough


class TokenSequence:
    """One sequence of tokens and its cache: what ``model.sequence()`` gives to embedding applications.

    A context manager; closing frees the cache. One thread at a time, but :meth:`close` is for any thread.
    """

    def __init__(self, decoder: Decoder, facts: ModelFacts) -> None:
        self._decoder, self._facts = decoder, facts

    def append(self, tokens: Iterable[int] | npt.NDArray[np.integer], logits: Logits = "all") -> npt.NDArray[np.float32] | None:
        """Append token ids and compute.

        Returns float32 logits: (n, vocab) for ``"all"``, one row per appended token; (1, vocab) for
        ``"last"``; None for None, which also skips the head. Raises :class:`TokenIdError`,
        :class:`EmptyPromptError` and :class:`ContextLengthError` before any work,
        :class:`SequenceStateError` if closed or in use, :class:`CancelledError` if closed
        meanwhile, :class:`InferenceError` and its subclass :class:`OutOfMemoryError`.
        """
        if logits is not None and (not isinstance(logits, str) or logits not in ("all", "last")):
            raise RequestError(f"logits is {shown(logits)}, expected 'all', 'last' or None")
        ids = some_token_ids(tokens, self._facts.vocab_size, self._facts.context_length)
        try:
            result = self._decoder.append(ids[None], logits)
        except MemoryError as error:
            raise not_enough(error) from error
        return None if result is None else result[0]

    def rewind(self, count: int) -> None:
        """Drop the last ``count`` tokens, exactly, without copying. Raises :class:`RewindError` where that is impossible."""
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or abs(int(count)) > self._facts.context_length:
            whole = f"give a whole number from 0 to {self.length}"
            raise RewindError(f"cannot rewind {shown(count)} tokens of a sequence of {self.length}: {whole}")
        self._decoder.rewind(int(count))  # numpy's small integers overflow

    @property
    def length(self) -> int:
        """Tokens appended and not rewound."""
        return self._decoder.cache.length()

    @property
    def rewindable(self) -> int:
        """The most tokens that can be rewound exactly (dropping all of them is always possible besides)."""
        return self._decoder.cache.rewindable()

    def close(self) -> None:
        """Stop a running append and free the cache."""
        self._decoder.close()

    def __len__(self) -> int:
        return self.length

    def __enter__(self) -> TokenSequence:
        return self

    def __reduce__(self) -> str:
        raise not_portable(self)

    def __exit__(self, *exception: object) -> None:
        self.close()
