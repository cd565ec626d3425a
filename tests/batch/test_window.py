"""Rows under way: in order, enough of them, bounded."""

from __future__ import annotations

import argparse
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sc2onnx
from sc2onnx.batch import Completing, Record
from sc2onnx.batch.tasks import Columns, Task
from sc2onnx.batch.window import Window
from tests.batch.conftest import done, job, write

CODE = Path(argparse.__file__).read_text(encoding="utf-8")


class Held:
    """A row that ends when it is let go."""

    def __init__(self, number: int) -> None:
        self.number, self.ended, self._calls = number, False, list[Callable[[], object]]()
        self.cancelled = False

    def when_ended(self, call: Callable[[], object]) -> None:
        self._calls.append(call)

    def result(self) -> dict[str, Any]:
        assert self.ended
        return {"number": self.number}

    def cancel(self) -> None:
        self.cancelled = True

    def go(self) -> None:
        for call in self._calls:  # too early, which happens
            call()
        self.ended = True
        for call in self._calls * 2:  # and twice
            call()


class Holding(Task):
    """Begins rows that are let go by hand."""

    fields = ()

    def __init__(self) -> None:
        self.begun = list[Held]()

    @property
    def columns(self) -> Columns:
        return {}

    def settings(self) -> dict[str, Any]:
        return {}

    def begin(self, model: sc2onnx.Model, record: Record) -> Held:
        self.begun.append(Held(record.number))
        return self.begun[-1]


def records(count: int) -> Iterator[Record]:
    return (Record("f", number) for number in range(1, count + 1))


def test_a_long_row_keeps_no_other_from_the_engine_and_the_order_stays(
    exact: sc2onnx.Model,
) -> None:
    task = Holding()
    window, most = Window(exact, task, records(1000)), exact.engine.bounds.rows
    assert window.next(0) == []
    assert len(task.begun) == 5 * most
    for _ in range(100):
        for row in task.begun[1:]:
            if not row.ended:
                row.go()
        assert window.next(0) == []
    assert len(task.begun) == 69 * most  # all that are held behind the first
    task.begun[0].go()
    assert [answer.record.number for answer in window.next(0)] == list(range(1, 69 * most + 1))
    window.next(0)
    window.close()
    assert all(row.cancelled for row in task.begun if not row.ended)
    assert window.over


def test_it_waits_for_the_next_one_and_no_longer_than_told(exact: sc2onnx.Model) -> None:
    task = Holding()
    window = Window(exact, task, records(3))
    window.next(0)
    timer = threading.Timer(0.05, task.begun[0].go)
    timer.start()
    (answer,) = window.next(30)
    assert (answer.record.number, answer.row) == (1, {"number": 1})
    timer.join()
    window.shut()
    assert not window.over
    for row in task.begun[1:]:
        row.go()
    assert len(window.next(30)) == 2
    assert window.over


def test_ten_thousand_rows_take_the_memory_of_a_few(
    exact: sc2onnx.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Instant(Holding):
        """As good as a model: rows end in another thread, at once."""

        counted = "number"

        def begin(self, model: sc2onnx.Model, record: Record) -> Held:
            row = Held(record.number)
            row.go()
            return row

    path = write(tmp_path / "in.jsonl", ({"id": i, "text": f"{i}" * 300} for i in range(10_000)))
    monkeypatch.setattr(Held, "when_ended", lambda row, call: call())
    assert exact.codec.longest_token  # opened before anything is measured
    tracemalloc.start()
    try:
        found = done(exact, job(path, tmp_path / "out.jsonl", task=Instant()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.rows == 10_000
    assert path.stat().st_size > 10_000_000
    assert peak < 6_000_000  # ids take 1 MB of it, rows that were not written yet another


def test_a_model_that_computes_keeps_nothing_of_rows_that_are_done(
    exact: sc2onnx.Model, tmp_path: Path
) -> None:
    sizes = list[int]()
    for count in (100, 400):
        path = write(
            tmp_path / f"{count}.jsonl",
            ({"prompt": CODE[37 * i : 37 * i + 100]} for i in range(count)),
        )
        tracemalloc.start()
        try:
            done(
                exact,
                job(
                    path,
                    tmp_path / f"out-{count}.jsonl",
                    task=Completing({"max_new_tokens": 1, "stop": "x"}),
                ),
            )
            sizes.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        exact.forget()
    assert sizes[1] < sizes[0] + 2_000_000
