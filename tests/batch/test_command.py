"""``sc2onnx batch`` as a user runs it, and as the system ends it."""

from __future__ import annotations

import gzip
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.batch.conftest import read, rows, write

QUICK = ("--max-new-tokens", "6", "--max-batch", "4", "--threads", "1")

SOON = (
    "import sys, sc2onnx.batch.job as job; job.COMMIT = 0.02; from "
    "sc2onnx.cli.main import entry; entry()"
)
"""The command, which commits as often as it can."""


def started(
    *arguments: str | Path, directory: Path, limit: int | None = None
) -> subprocess.Popen[str]:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit or 0, limit or 0))

    command = [sys.executable, "-c", SOON, "batch", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command,
        cwd=directory,
        stdout=pipe,
        stderr=pipe,
        text=True,
        preexec_fn=limited if limit else None,
    )


def ran(*arguments: str | Path, directory: Path, limit: int | None = None) -> tuple[int, str, str]:
    process = started(*arguments, directory=directory, limit=limit)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def committed(folder: Path) -> int:
    """Rows that the checkpoint counts."""
    try:
        return int(json.loads((folder / "progress.json").read_bytes())["rows"])
    except FileNotFoundError:
        return 0


def wait_for(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while committed(folder) < count and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.002)


def test_rows_out_of_rows(int8_bundle: Path, tmp_path: Path) -> None:
    given = rows(6)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.jsonl.gz").write_bytes(
        gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in given[3:]))
    )
    write(tmp_path / "in" / "a.jsonl", given[:3])
    status, out, err = ran(int8_bundle, "in", "--output", "out.jsonl", *QUICK, directory=tmp_path)
    assert (status, err) == (0, "")
    assert out == "6 rows, 36 tokens\nin out.jsonl\n"
    found = read(tmp_path / "out.jsonl")
    assert [(row["id"], row["file"], row["row"]) for row in found[2:4]] == [
        ("r2", "in/a.jsonl", 3),
        ("r3", "in/b.jsonl.gz", 1),
    ]
    status, out, err = ran(
        int8_bundle, "in", "--output", "out.jsonl", *QUICK, "--temperature", "1", directory=tmp_path
    )
    assert (status, out) == (2, "")
    assert "options: temperature was 0.0 and is 1.0" in err
    assert err.count("\n") == 1


def test_scores_are_summed_up(int8_bundle: Path, tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", [{"content": "def f(n):\n    return n\n"}, {"content": 1}])
    status, out, err = ran(
        int8_bundle,
        "in.jsonl",
        "--output",
        "o.jsonl",
        "--task",
        "score",
        "--field",
        "text=content",
        directory=tmp_path,
    )
    assert (status, err) == (1, "")
    good, bad = read(tmp_path / "o.jsonl")
    assert out.startswith(
        f"2 rows (1 with errors), {good['tokens']} tokens\nNLL {good['nll']:.4f}, perplexity "
        f"{good['perplexity']:.3f}, "
    )
    assert set(bad) == {"file", "row", "error"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent.jsonl", "--output", "o.jsonl"), "absent.jsonl is no file"),
        (("in.jsonl", "--output", "o.csv"), "--output is o.csv"),
        (("in.jsonl", "--output", "no/o.jsonl"), "not a directory"),
        (("in.jsonl", "--output", "in.jsonl"), "in.jsonl exists and is not this job's output"),
        (("in.jsonl", "--output", "o.jsonl", "--field", "text"), "--field is 'text'"),
        (("in.jsonl", "--output", "o.jsonl", "--top-p", "2"), "top_p is 2"),
        pytest.param(
            ("in.jsonl", "--output", "o.jsonl", "--regex", "("),
            "unclosed group",
            marks=pytest.mark.skipif(find_spec("llguidance") is None, reason="needs llguidance"),
        ),
        (("in.jsonl", "--output", "o.jsonl", "--grammar", "absent"), "absent cannot be read"),
        (("in.jsonl", "--output", "o.jsonl", "--task", "evaluate", "--length", "0"), "length is 0"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    int8_bundle: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    write(tmp_path / "in.jsonl", rows(2))
    status, out, err = ran(int8_bundle, *arguments, directory=tmp_path)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("work")
    given = rows(400)
    for number in range(0, 400, 50):
        given[number]["prompt"] = ""
    write(path / "in.jsonl", given)
    return path


SAMPLED = ("in.jsonl", "--temperature", "0.9", "--seed", "7", "--quiet", *QUICK)


@pytest.fixture(scope="module")
def whole(int8_bundle: Path, work: Path) -> bytes:
    """The output of a run that nothing interrupted."""
    status, out, _ = ran(int8_bundle, *SAMPLED, "--output", "whole.jsonl", directory=work)
    assert (status, out[:26]) == (1, "400 rows (8 with errors), ")
    return (work / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_job_that_is_killed_at_random_gives_each_row_once(
    int8_bundle: Path, work: Path, whole: bytes, seed: int
) -> None:
    chance, out = random.Random(seed), work / f"killed-{seed}.jsonl"
    folder, before = work / f"{out.name}.job", 0
    for _ in range(4):
        process = started(int8_bundle, *SAMPLED, "--output", out.name, directory=work)
        wait_for(folder, before + chance.randrange(1, 80), process)
        time.sleep(chance.random() * 0.01)
        process.kill()
        process.communicate()
        before = committed(folder)
    assert 0 < before < 400
    assert not out.exists()
    assert ran(int8_bundle, *SAMPLED, "--output", out.name, directory=work)[0] == 1
    assert out.read_bytes() == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_and_it_goes_on(
    int8_bundle: Path, work: Path, whole: bytes, number: signal.Signals
) -> None:
    name = f"{number.name}.jsonl"
    process = started(int8_bundle, *SAMPLED, "--output", name, directory=work)
    wait_for(work / f"{name}.job", 20, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    count = committed(work / f"{name}.job")
    assert (process.returncode, out) == (128 + number, "")
    assert err == f"stopped after {count} rows: run the same command again to go on\n"
    assert 20 <= count < 400
    assert ran(int8_bundle, *SAMPLED, "--output", name, directory=work)[0] == 1
    assert (work / name).read_bytes() == whole


def test_a_full_disk_is_told_of_and_the_job_goes_on(
    int8_bundle: Path, work: Path, whole: bytes
) -> None:
    status, out, err = ran(
        int8_bundle, *SAMPLED, "--output", "full.jsonl", directory=work, limit=20_000
    )
    assert (status, out, err.count("\n")) == (2, "", 1)
    count = committed(work / "full.jsonl.job")
    assert f"took no more after {count} rows" in err
    assert "make room, and run the same command again to go on" in err
    assert count > 0
    assert ran(int8_bundle, *SAMPLED, "--output", "full.jsonl", directory=work)[0] == 1
    assert (work / "full.jsonl").read_bytes() == whole


def test_two_jobs_on_one_output(int8_bundle: Path, work: Path, whole: bytes) -> None:
    first = started(int8_bundle, *SAMPLED, "--output", "twice.jsonl", directory=work)
    wait_for(work / "twice.jsonl.job", 1, first)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        status, _, err = ran(int8_bundle, *SAMPLED, "--output", "twice.jsonl", directory=work)
    finally:
        os.kill(first.pid, signal.SIGCONT)
    first.communicate(timeout=60)
    assert status == 2
    assert "another job is writing twice.jsonl" in err
    assert (work / "twice.jsonl").read_bytes() == whole
