"""Exactly once: whatever fails wherever, the next run goes on and the output is
that of a run without faults.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sc2onnx
import sc2onnx.batch.job as running
from sc2onnx.batch import Completing, Record, Scoring
from sc2onnx.batch.output import check_output, folder_of, locked
from sc2onnx.batch.tasks import Pending
from sc2onnx.errors import DiskSpaceError, OutputError, OutputExistsError, RequestError
from tests.batch.conftest import OPTIONS, done, job, read, rows, write


@pytest.fixture
def reference(exact: sc2onnx.Model, source: Path, tmp_path: Path) -> bytes:
    """The output of a run without faults."""
    assert done(exact, job(source, tmp_path / "reference.jsonl")).rows == 30
    return (tmp_path / "reference.jsonl").read_bytes()


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Callable[[], bool]]:
    """Whether a job is to stop: when so many rows of it were begun, which is before its end."""
    begun, begin = list[Record](), Completing.begin

    def counted(task: Completing, model: sc2onnx.Model, record: Record) -> Pending:
        begun.append(record)
        return begin(task, model, record)

    def stop(count: int) -> Callable[[], bool]:
        begun.clear()
        return lambda: len(begun) >= count

    monkeypatch.setattr(Completing, "begin", counted)
    return stop


StopAt = Callable[[int], Callable[[], bool]]


def test_rows_come_in_order_and_say_where_they_are_from(
    exact: sc2onnx.Model, source: Path, tmp_path: Path
) -> None:
    found = done(exact, job(source, tmp_path / "out.jsonl"))
    lines = read(tmp_path / "out.jsonl")
    assert [(row["id"], row["file"], row["row"]) for row in lines] == [
        (f"r{i}", source.as_posix(), i + 1) for i in range(30)
    ]
    assert (found.state, found.rows, found.errors) == ("done", 30, 0)
    assert found.tokens == sum(row["tokens"] for row in lines)
    assert sorted(path.name for path in folder_of(tmp_path / "out.jsonl").iterdir()) == [
        "lock",
        "progress.json",
        "settings.json",
    ]


def test_rows_that_cannot_be_computed_are_errors_in_their_place(
    exact: sc2onnx.Model, tmp_path: Path
) -> None:
    given: list[Any] = rows(12)
    given[1]["prompt"] = 5
    given[3] = {"id": "r3"}
    given[5]["prompt"] = ""
    given[6]["prompt"] = "x = 1\n" * 5000
    given[8]["id"] = "r7"
    given[9] = ["no", "object"]
    given[10]["prompt"] = "\ud800"
    found = done(exact, job(write(tmp_path / "in.jsonl", given), tmp_path / "out.jsonl"))
    lines = read(tmp_path / "out.jsonl")
    assert [row["row"] for row in lines if "error" in row] == [2, 4, 6, 7, 9, 10, 11]
    assert (found.rows, found.errors) == (12, 7)
    messages = (
        "expected a str",
        "no prompt",
        "empty",
        "context",
        "as an earlier row's",
        "a list",
        "surrogates",
    )
    for message, row in zip(messages, [row for row in lines if "error" in row], strict=True):
        assert message in row["error"]
    good = [row for row in lines if "error" not in row]
    assert [row["id"] for row in good] == ["r0", "r2", "r4", "r7", "r11"]


def test_the_first_error_can_end_the_job(exact: sc2onnx.Model, tmp_path: Path) -> None:
    given = rows(12)
    given[7]["prompt"] = ""
    path = write(tmp_path / "in.jsonl", given)
    with pytest.raises(RequestError, match=r"in\.jsonl, row 8: the prompt is empty.*--fail-fast"):
        done(exact, job(path, tmp_path / "out.jsonl", fail_fast=True))
    assert len(read(folder_of(tmp_path / "out.jsonl") / "rows.jsonl")) == 7
    assert done(exact, job(path, tmp_path / "out.jsonl")).errors == 1


@pytest.mark.parametrize("begun", [0, 1, 21, 30])
def test_a_job_that_is_stopped_goes_on(
    exact: sc2onnx.Model,
    source: Path,
    tmp_path: Path,
    reference: bytes,
    stop_at: StopAt,
    begun: int,
) -> None:
    out = tmp_path / "out.jsonl"
    first = done(exact, job(source, out), stopping=stop_at(begun))
    assert first.state == "under way"
    assert not out.exists()
    again = done(exact, job(source, out))
    assert (again.state, again.rows) == ("done", 30)
    assert out.read_bytes() == reference
    assert not exact.engine.threaded


def _fails(patch: pytest.MonkeyPatch, at: int, number: int) -> list[str]:
    """Have the ``at``-th call of the system that matters fail, or with 0 none; gives all calls."""
    calls = list[str]()

    def failing(module: Any, name: str) -> None:
        real = getattr(module, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            calls.append(name)
            if len(calls) == at:
                if name == "write":  # part of it gets there
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise OSError(number, os.strerror(number))
            return real(*arguments, **keywords)

        patch.setattr(module, name, call)

    for name in ("write", "fsync", "replace", "ftruncate"):
        failing(os, name)
    return calls


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_any_call(
    exact: sc2onnx.Model,
    source: Path,
    tmp_path: Path,
    reference: bytes,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(running, "COMMIT", 0.0)
    with monkeypatch.context() as patch:
        calls = _fails(patch, 0, number)
        done(exact, job(source, tmp_path / "counted.jsonl"))
    assert set(calls) == {"write", "fsync", "replace", "ftruncate"}
    for at in range(1, 15):  # beginning, first commits, and as few as there may be at the end
        out = tmp_path / f"{at}.jsonl"
        with monkeypatch.context() as patch:
            _fails(patch, at, number)
            with pytest.raises(
                DiskSpaceError if number == errno.ENOSPC else OutputError,
                match=r"to go on|choose another",
            ):
                done(exact, job(source, out))
        assert done(exact, job(source, out)).rows == 30
        assert out.read_bytes() == reference


def test_what_a_power_cut_left_behind_the_checkpoint_is_cut_off(
    exact: sc2onnx.Model,
    source: Path,
    tmp_path: Path,
    reference: bytes,
    monkeypatch: pytest.MonkeyPatch,
    stop_at: StopAt,
) -> None:
    monkeypatch.setattr(running, "GRACE", 0.0)
    for tail in (b"\0" * 5000, reference[:50], b'{"id": "r0"}\n' * 40):
        out = tmp_path / f"{len(tail)}.jsonl"
        done(exact, job(source, out), stopping=stop_at(21))
        working = folder_of(out) / "rows.jsonl"
        with working.open("ab") as file:
            file.write(tail)
        (folder_of(out) / ".sc2onnx-abc").write_text("half a check")  # what was to be renamed
        done(exact, job(source, out))
        assert out.read_bytes() == reference


def test_ends_that_were_broken_off(
    exact: sc2onnx.Model, source: Path, tmp_path: Path, reference: bytes
) -> None:
    """Between the last row, the name of the output, and the note that it has it."""
    for renamed in (False, True):
        out = tmp_path / f"{renamed}.jsonl"
        finished = done(exact, job(source, out))
        finished.now("ending").write(folder_of(out) / "progress.json")
        if not renamed:
            out.rename(folder_of(out) / "rows.jsonl")
        assert done(exact, job(source, out)).state == "done"
        assert out.read_bytes() == reference


def test_a_job_that_is_done_is_not_done_again(
    exact: sc2onnx.Model, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"
    first = done(exact, job(source, out))
    before = out.stat().st_mtime_ns
    monkeypatch.setattr(Completing, "begin", None)  # whoever computes fails
    assert done(exact, job(source, out)) == first
    assert out.stat().st_mtime_ns == before
    out.unlink()
    with pytest.raises(OutputError, match="was written whole and is gone"):
        done(exact, job(source, out))


def test_other_settings_are_refused_by_name(
    exact: sc2onnx.Model, source: Path, tmp_path: Path, stop_at: StopAt
) -> None:
    out = tmp_path / "out.jsonl"
    done(exact, job(source, out), stopping=stop_at(1))
    changes: dict[str, dict[str, Any]] = {
        r"options: temperature was 0\.8 and is 0\.5": {
            "task": Completing({**OPTIONS, "temperature": 0.5})
        },
        "options: seed was 3 and is 4": {"task": Completing({**OPTIONS, "seed": 4})},
        'task was "completing" and is "scoring"': {"task": Scoring()},
        'fields: id was "id" and is absent': {"renamed": {"id": ""}},
    }
    for message, change in changes.items():
        with pytest.raises(RequestError, match=message):
            done(exact, job(source, out, **change))
    content = source.read_text()
    source.write_text(content + "\n")
    with pytest.raises(RequestError, match=r"inputs: .*in\.jsonl was \d+ and is \d+"):
        done(exact, job(source, out))
    source.write_text(content)
    assert done(exact, job(source, out)).state == "done"


def test_another_bundle_is_refused(
    exact: sc2onnx.Model, source: Path, tmp_path: Path, int4_bundle: Path, stop_at: StopAt
) -> None:
    done(exact, job(source, tmp_path / "out.jsonl"), stopping=stop_at(1))
    with pytest.raises(RequestError, match='bundle was "'):
        done(sc2onnx.load(int4_bundle), job(source, tmp_path / "out.jsonl"))


def test_a_restart_begins_anew(
    exact: sc2onnx.Model, source: Path, tmp_path: Path, stop_at: StopAt
) -> None:
    out = tmp_path / "out.jsonl"
    for stop in (stop_at(21), lambda: False):  # once from the middle, once from the end
        done(exact, job(source, out), stopping=stop)
        other = job(source, out, task=Completing({"max_new_tokens": 2}), restart=True)
        done(exact, other)
        assert [row["tokens"] for row in read(out)] == [2] * 30
        done(exact, job(source, out, restart=True))


def test_what_says_how_far_the_job_is_is_not_trusted(
    exact: sc2onnx.Model, source: Path, tmp_path: Path, stop_at: StopAt
) -> None:
    out = tmp_path / "out.jsonl"
    done(exact, job(source, out), stopping=stop_at(25))
    place = folder_of(out) / "progress.json"
    good = json.loads(place.read_text()) if place.exists() else {"rows": 0, "nbytes": 0}
    for bad in (
        b"{",
        b"[1]",
        b'{"rows": -1}',
        b'{"state": "x"}',
        json.dumps({**good, "nbytes": 10**9}).encode(),
    ):
        place.write_bytes(bad)
        with pytest.raises(OutputError, match="--restart"):
            done(exact, job(source, out))
    place.write_text(json.dumps({**good, "rows": 31, "nbytes": 0}))
    with pytest.raises(RequestError, match="fewer than the 31 rows"):
        done(exact, job(source, out))
    assert done(exact, job(source, out, restart=True)).rows == 30


def test_one_job_at_a_time(exact: sc2onnx.Model, source: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "out.jsonl"), pytest.raises(OutputError, match="another job is writing"):
        done(exact, job(source, tmp_path / "out.jsonl"))
    assert done(exact, job(source, tmp_path / "out.jsonl")).rows == 30


def test_outputs_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("precious\n")
    (tmp_path / "folder.jsonl").mkdir()
    for name, message in {
        "mine.jsonl": "not this job's",
        "folder.jsonl": "not this job's",
        "out.csv": "ends in",
        "absent/o.jsonl": "no",
    }.items():
        with pytest.raises(OutputError, match=message):
            check_output(tmp_path / name)
    with pytest.raises(OutputExistsError):
        check_output(tmp_path / "mine.jsonl")
    assert (tmp_path / "mine.jsonl").read_text() == "precious\n"


def test_what_fails_the_machine_fails_no_row(
    exact: sc2onnx.Model,
    source: Path,
    tmp_path: Path,
    reference: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, forward, passes = tmp_path / "out.jsonl", exact.engine.seats.forward, iter(range(9))

    def failing(*arguments: Any, **keywords: Any) -> Any:
        if next(passes, None) is None:
            raise sc2onnx.errors.InferenceError("the device is gone")
        return forward(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(exact.engine.seats, "forward", failing)
        with pytest.raises(sc2onnx.errors.InferenceError, match="the device is gone"):
            done(exact, job(source, out))
    assert done(exact, job(source, out)).errors == 0
    assert out.read_bytes() == reference


def test_rows_without_finite_logits_are_errors(
    exact: sc2onnx.Model, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = exact.engine.seats.forward

    def poisoned(runs: Any, **keywords: Any) -> Any:
        found = forward(runs, **keywords)
        return [
            each * float("nan") if run.prefill and len(run.tokens) % 2 else each
            for run, each in zip(runs, found, strict=True)
        ]

    given = rows(8)
    for number in range(0, 8, 2):
        given[number]["prompt"] += " n"
    monkeypatch.setattr(exact.engine.seats, "forward", poisoned)
    found = done(exact, job(write(tmp_path / "odd.jsonl", given), tmp_path / "out.jsonl"))
    assert found.rows == 8
    assert 0 < found.errors < 8
    assert all(
        "not finite" in row["error"] for row in read(tmp_path / "out.jsonl") if "error" in row
    )
