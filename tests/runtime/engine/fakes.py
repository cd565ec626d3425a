"""Seats without a model: the next token is a hash of all tokens before
it, and any pass may fail.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sc2onnx.errors import InferenceError
from sc2onnx.runtime.choose.parameters import SamplingParameters
from sc2onnx.runtime.choose.sampling import Sampler
from sc2onnx.runtime.engine.costs import StepCosts
from sc2onnx.runtime.engine.lobby import Bounds
from sc2onnx.runtime.engine.loop import Engine
from sc2onnx.runtime.engine.prefix import PrefixStore
from sc2onnx.runtime.engine.row import Row
from sc2onnx.runtime.engine.seats import Run
from sc2onnx.runtime.engine.terms import Terms
from sc2onnx.runtime.forks import Process
from sc2onnx.runtime.options import GenerationRules

VOCAB = 50


def scores(tokens: Sequence[int]) -> npt.NDArray[np.float32]:
    """Logits (vocab,) after these tokens."""
    digest = hashlib.blake2b(np.array(tokens, dtype=np.int64).tobytes(), digest_size=8).digest()
    random = np.random.default_rng(int.from_bytes(digest, "little"))
    found = random.standard_normal(VOCAB, dtype=np.float32) * 3
    found[-1] = -1000  # the last token is never drawn
    return found


class FakeSeat:
    """A list of tokens."""

    def __init__(self, seats: FakeSeats, tokens: Sequence[int] = ()) -> None:
        self.tokens = list(tokens)
        self._seats = seats
        seats.open.add(self)

    room = 64
    earliest = 0

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def rewindable(self) -> int:
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        return len(self.tokens)

    def rewind(self, count: int) -> None:
        assert 0 <= count <= len(self.tokens)
        del self.tokens[len(self.tokens) - count :]

    def copy(self, length: int, room: int = 0) -> FakeSeat:
        return FakeSeat(self._seats, self.tokens[:length])

    def place(self, depth: int, chunk: int, values: npt.NDArray[Any]) -> None:
        raise NotImplementedError

    def clear(self) -> None:
        self.tokens = []


class FakeSeats:
    """Seats of :class:`FakeSeat`. ``trouble``: called with the runs of each pass, may raise."""

    chooses = False

    def __init__(
        self, *, together: bool = True, trouble: Callable[[Sequence[Run]], None] | None = None
    ) -> None:
        self.together = self.drafts_together = together
        self.trouble = trouble
        self.passes = list[list[int]]()  # tokens of each run
        self.open: weakref.WeakSet[FakeSeat] = weakref.WeakSet()

    @property
    def nbytes(self) -> int:
        return sum(seat.nbytes for seat in list(self.open))

    def new(self) -> FakeSeat:
        return FakeSeat(self)

    def forward(self, runs: Sequence[Run], *, ids: bool = False) -> list[npt.NDArray[Any]]:
        assert len({id(run.seat) for run in runs}) == len(runs)
        if self.trouble is not None:
            self.trouble(runs)
        self.passes.append([len(run.tokens) for run in runs])
        found = []
        for run in runs:
            seat = run.seat
            assert isinstance(seat, FakeSeat)
            assert len(run.tokens) <= seat.room
            logits = []
            for token in run.tokens.tolist():
                seat.tokens.append(token)
                logits.append(scores(seat.tokens))
            wanted = logits[len(logits) - run.wanted :] if run.wanted else []
            found.append(np.array(wanted, dtype=np.float32).reshape(-1, VOCAB))
        return found

    def cancel(self) -> None:
        """Passes of this one take no time."""

    def tidy(self) -> None:
        """Nothing is left."""

    def rebind(self) -> None:
        """Nothing is bound."""


def engine(seats: FakeSeats, *, rows: int = 4, chunk: int = 16, keep: int = 0) -> Engine:
    """An engine over fake seats. ``keep``: bytes of the prefix store, which are tokens here."""
    bounds = Bounds(rows, chunk, context=256)
    return Engine(seats, bounds, PrefixStore(keep), StepCosts(0.1), Process.here())


def row(
    prompt: Sequence[int],
    count: int,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    stops: Sequence[int] = (),
    terms: Terms | None = None,
) -> Row:
    """A row that gives tokens."""
    sampling = SamplingParameters(temperature=temperature, seed=seed)
    ids = np.array(prompt, dtype=np.int64)
    rules = GenerationRules(count, sampling, (), frozenset(stops))
    made = Row(ids, rules, Sampler(sampling, ids, VOCAB), 256, gives="tokens")
    if terms is not None:
        made.terms = terms
    return made


def failing(what: Callable[[Sequence[Run]], bool]) -> Callable[[Sequence[Run]], None]:
    """Trouble for passes of which this is true."""

    def trouble(runs: Sequence[Run]) -> None:
        if what(runs):
            raise InferenceError("the pass failed")

    return trouble
