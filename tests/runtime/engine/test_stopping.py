"""Passes that are stopped: for whoever goes first, and without harm to others."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from sc2onnx.errors import CancelledError
from sc2onnx.runtime.engine.loop import Engine
from sc2onnx.runtime.engine.prefix import Kept
from sc2onnx.runtime.engine.row import Row
from sc2onnx.runtime.engine.seats import Run
from sc2onnx.runtime.engine.streams import TokenStream
from sc2onnx.runtime.engine.terms import Terms
from tests.runtime.engine.fakes import FakeSeats, engine, row

SLOW = 7
"""Passes with this token last until they are stopped, or are let go."""


class SlowSeats(FakeSeats):
    """Seats whose passes can be stopped. ``late``: a stop hits the pass after
    the one it was meant for.
    """

    def __init__(self, *, late: bool = False) -> None:
        super().__init__(trouble=self._pass)
        self.entered, self.go = threading.Event(), threading.Event()
        self.stops = 0
        self._late, self._hit = late, False

    def _pass(self, runs: Sequence[Run]) -> None:
        if self._late and self._hit:
            self._hit = False
            raise CancelledError("the pass was stopped")
        if any(SLOW in run.tokens.tolist() for run in runs):
            before = self.stops
            self.entered.set()
            assert self.go.wait(10)
            self.go.clear()
            if self.stops > before and not self._late:
                raise CancelledError("the pass was stopped")

    def cancel(self) -> None:
        self.stops += 1
        self._hit = True
        self.go.set()


@contextmanager
def started(seats: SlowSeats) -> Iterator[Engine]:
    shared = engine(seats)
    shared.start()
    try:
        yield shared
    finally:
        seats.go.set()
        shared.stop()


def alone(prompt: Sequence[int], count: int) -> list[int]:
    return [token.id for token in TokenStream(engine(FakeSeats()), row(prompt, count))]


def test_a_prompt_of_a_lower_priority_gives_way_at_once_and_goes_on_afterwards() -> None:
    seats = SlowSeats()
    with started(seats) as shared:
        warm = TokenStream(shared, row([SLOW, 1], 1, terms=Terms(priority=-10)), submitted=True)
        assert seats.entered.wait(10)
        key = TokenStream(shared, row([2], 5), submitted=True)
        assert [token.id for token in key] == alone([2], 5)
        assert seats.stops == 1
        assert warm.generated_tokens == 0
        seats.go.set()
        assert [token.id for token in warm] == alone([SLOW, 1], 1)


@pytest.mark.parametrize("priority", [0, 3])
def test_others_are_not_stopped(priority: int) -> None:
    seats = SlowSeats()
    with started(seats) as shared:
        first = TokenStream(
            shared, row([SLOW, 1], 3, terms=Terms(priority=priority)), submitted=True
        )
        assert seats.entered.wait(10)
        second = TokenStream(shared, row([2], 3), submitted=True)
        assert seats.stops == 0
        seats.go.set()
        assert [token.id for token in first] == alone([SLOW, 1], 3)
        assert [token.id for token in second] == alone([2], 3)


def test_a_request_that_is_replaced_stops_in_the_middle_of_its_pass() -> None:
    seats = SlowSeats()
    with started(seats) as shared:
        older = TokenStream(shared, row([SLOW, 1], 9, terms=Terms(replaces="file")), submitted=True)
        assert seats.entered.wait(10)
        newer = TokenStream(shared, row([2], 5, terms=Terms(replaces="file")), submitted=True)
        assert [token.id for token in newer] == alone([2], 5)
        assert seats.stops == 1
        assert list(older) == []
        assert older.finish_reason == "cancelled"


def test_a_stop_that_comes_late_harms_nobody() -> None:
    """Between the look at a pass and its stop the next one may have begun."""
    seats = SlowSeats(late=True)
    with started(seats) as shared:
        gone = TokenStream(shared, row([SLOW, 1], 9), submitted=True)
        assert seats.entered.wait(10)
        other = TokenStream(shared, row([2], 5), submitted=True)
        gone.cancel()
        assert [token.id for token in other] == alone([2], 5)
        assert seats.stops == 1


def test_a_request_whose_end_is_seen_before_its_coming_takes_no_place() -> None:
    """Another thread may submit and cancel it while the lobby looks:
    after it has looked who came.
    """
    shared = engine(FakeSeats(), rows=1)
    gone = row([1, 2], 9)
    gone.cancelled = True
    shared.lobby.over.append(gone)
    shared.lobby.see()
    shared.lobby.fresh.append(gone)
    shared.lobby.see()
    assert shared.lobby.empty
    assert [token.id for token in TokenStream(shared, row([3], 4))] == alone([3], 4)


def test_nobody_finds_it_empty_before_the_last_one_has_left_what_it_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever forgets what is kept, once all are over, would find it later."""
    shared = engine(FakeSeats(), keep=100)
    seen = list[bool]()
    put, arrive = shared.lobby.store.put, shared.lobby._arrive

    def watched_put(kept: Kept) -> None:
        seen.append(shared.lobby.empty)
        put(kept)

    def watched_arrive(fresh: Row) -> None:
        seen.append(shared.lobby.empty)
        arrive(fresh)

    monkeypatch.setattr(shared.lobby.store, "put", watched_put)
    monkeypatch.setattr(shared.lobby, "_arrive", watched_arrive)
    assert [token.id for token in TokenStream(shared, row([1, 2], 3))] == alone([1, 2], 3)
    assert seen == [False, False]
    assert shared.lobby.empty
