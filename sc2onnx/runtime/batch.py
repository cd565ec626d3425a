"""Several rows that decode together; prompts that several of them begin with are computed once."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sc2onnx.runtime.decoder import Decoder
from sc2onnx.runtime.generate import Completion, Gathered, Row, Scores

NewDecoder = Callable[[], Decoder]


def complete_together(rows: Sequence[Row], new_decoder: NewDecoder, most: int, shared_decoder: NewDecoder | None = None) -> list[Completion]:
    """Generate all rows to their end, up to ``most`` at a time decoding together. A row that ends
    makes room for one that waits.

    ``shared_decoder``: makes those that compute a prompt for several rows, by default
    ``new_decoder``; where it has a store, they begin with what an earlier request left there, and
    leave the prompt to later ones.
    """
    gathered = [Gathered(row) for row in rows]
    waiting, batch = deque(gathered), _Batch(_Prompts(rows, new_decoder, shared_decoder or new_decoder))
    try:
        while waiting or batch.active:
            entering = [waiting.popleft() for _ in range(min(most - len(batch.active), len(waiting)))]
            batch.admit(entering)
            batch.step()
    finally:
        batch.close()
    return [entry.completion(batch.prompts.reused(entry.row)) for entry in gathered]


@dataclass(slots=True)
class _Computed:
    """A prompt that several rows begin with: its cache, the scores (vocab,) of its last token, how
    many rows are yet to come.
    """

    decoder: Decoder
    scores: Scores
    coming: int


class _Prompts:
    """The prompts of the rows: computed when the first row with one enters, kept until the last
    has.
    """

    def __init__(self, rows: Sequence[Row], new_decoder: NewDecoder, shared_decoder: NewDecoder) -> None:
        self._new, self._new_shared = new_decoder, shared_decoder
        self._count = Counter(map(_key, rows))
        self._computed: dict[tuple[bytes, bool], _Computed] = {}
        self._reused: dict[tuple[bytes, bool], int] = {}

    def enter(self, row: Row) -> tuple[Decoder, Scores]:
        """A decoder of its own that holds the row's prompt, and the scores (vocab,) to draw its
        first token from.
        """
        key = _key(row)
        if self._count[key] == 1:
            decoder = self._new()
            return decoder, _prefilled(decoder, row)
        if key not in self._computed:
            shared = self._new_shared()
            self._computed[key] = _Computed(shared, _prefilled(shared, row), self._count[key])
            self._reused[key] = shared.reused
        computed = self._computed[key]
        decoder = self._new()
        decoder.cache = computed.decoder.cache.copy(len(row.prompt))
        computed.coming -= 1
        if not computed.coming:
            computed.decoder.close()
        return decoder, computed.scores

    def reused(self, row: Row) -> int:
        """Tokens of the row's prompt that an earlier request had left computed."""
        return self._reused.get(_key(row), 0)

    def close(self) -> None:
        """Free the caches."""
        for computed in self._computed.values():
            computed.decoder.close()


def _key(row: Row) -> tuple[bytes, bool]:
    """Rows with the same key can begin with the same computed prompt: their first scores are of the
    same kind, too.
    """
    return row.prompt.tobytes(), row.greedy


def _prefilled(decoder: Decoder, row: Row) -> Scores:
    scores: Scores = decoder.prefill(row.prompt, ids=decoder.chooses and row.greedy)[0, -1]
    return scores


class _Batch:
    """Rows that decode together, and the logits (vocab,) that each is to draw from next."""

    def __init__(self, prompts: _Prompts) -> None:
        self.active: list[Gathered] = []
        self.prompts = prompts
        self._logits: list[Scores] = []
        self._decoder: Decoder | None = None

    def admit(self, entries: Sequence[Gathered]) -> None:
        """Prefill rows, each on its own or once for several, and let them join."""
        joining = list[Decoder]()
        for entry in entries:
            decoder, scores = self.prompts.enter(entry.row)
            joining.append(decoder)
            self._logits.append(scores)
        self.active += entries
        if self._decoder is None and joining:
            self._decoder = joining.pop(0)
        if self._decoder is not None and joining:
            self._decoder.join(joining)

    def step(self) -> None:
        """Draw a token for each row, drop the rows that ended, and compute the next logits of the
        others.
        """
        going, following = list[int](), list[int]()
        for i, (entry, scores) in enumerate(zip(self.active, self._logits, strict=True)):
            token = entry.row.take(scores)
            if token is not None:
                entry.tokens.append(token)
                if entry.row.finish_reason is None:
                    going.append(i)
                    following.append(token.id)
        assert self._decoder is not None
        if len(going) < len(self.active):
            self.active = [self.active[i] for i in going]
            if going:
                self._decoder.keep(going)
            else:
                self._free()
        if following:
            ids = self._decoder.chooses and all(entry.row.greedy for entry in self.active)
            step = self._decoder.append(np.array(following, dtype=np.int64)[:, None], "last", ids=ids)
            assert step is not None
            self._logits = list(step[:, -1])

    def close(self) -> None:
        """Free the caches."""
        self._free()
        self.prompts.close()

    def _free(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
        self._decoder, self._logits = None, []
