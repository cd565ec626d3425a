"""What is told of a job."""

from __future__ import annotations

import pytest

from sc2onnx.batch.checkpoint import Checkpoint
from sc2onnx.batch.progress import Place, Progress, line, summary


def test_a_line_counts_from_where_this_run_began() -> None:
    first = Place(Checkpoint(rows=1000, tokens=5000), 0.25)
    now = Place(Checkpoint(rows=1500, tokens=15_000, errors=3), 0.5)
    assert (
        line(first, now, 50)
        == "1,500 rows (3 with errors), 50% read, 10.0 rows/s, 200 tokens/s, about 2 min left"
    )
    assert line(first, now, 5000).endswith("about 2.8 h left")
    assert line(first, now, 1000).endswith("about 33 min left")
    assert line(first, now, 20).endswith("about 40 s left")
    assert "left" not in line(first, first, 50)


def test_lines_come_as_often_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = [0.0], list[str]()
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    progress = Progress(told.append, every=30)
    place = Place(Checkpoint(), 0)
    progress.show(place)  # before the beginning
    progress.begin(place)
    for second in range(100):
        now[0] = second
        progress.show(place)
    assert len(told) == 3
    quiet = Progress(None)
    quiet.begin(place)
    now[0] = 1000
    quiet.show(place)


def test_a_summary_has_what_was_summed() -> None:
    done = Checkpoint(
        rows=10,
        errors=1,
        tokens=100,
        sums={
            "nats": 200.0,
            "bytes": 400.0,
            "spans": 4.0,
            "exact_match": 1.0,
            "edit_similarity": 3.0,
        },
    )
    assert summary(done) == [
        "10 rows (1 with errors), 100 tokens",
        "NLL 2.0000, perplexity 7.389, 0.7213 bits/byte",
        "4 spans infilled: 25.0% exact, edit similarity 0.750",
    ]
    assert summary(Checkpoint(rows=1000)) == ["1,000 rows, 0 tokens"]
