"""``serve --workers`` and ``route`` as a user starts them: processes that
end, and those that do not.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.fleet.conftest import until
from tests.serve.test_run import started

BODY = {"prompt": "def f():\n", "max_tokens": 4, "temperature": 0}

pytestmark = pytest.mark.skipif(
    len(getattr(os, "sched_getaffinity", lambda _: ())(0)) < 2, reason="needs two processors"
)


def children(process: subprocess.Popen[str]) -> list[int]:
    """Processes that a process has started, by the files of Linux."""
    found = []
    for each in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = each.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == process.pid and fields[0] != "Z":
            found.append(int(each.parent.name))
    return sorted(found)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def ready(address: str) -> int:
    found: int = (
        httpx.get(f"{address}/health", timeout=60).json().get("members", {}).get("ready", 0)
    )
    return found


@contextmanager
def two_workers(
    bundle: Path, folder: Path, *more: object
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with started(bundle, "--workers", 2, "--alias", "code", *more, cwd=folder) as (
        process,
        address,
    ):
        until(lambda: ready(address) == 2, 60)
        yield process, address


def test_each_has_processors_of_its_own_and_all_end_in_order(bundle: Path, tmp_path: Path) -> None:
    with two_workers(bundle, tmp_path) as (process, address):
        pids = children(process)
        own = [os.sched_getaffinity(pid) for pid in pids]
        assert len(own) == 2
        assert not own[0] & own[1]
        assert httpx.get(f"{address}/v1/models").json()["data"][0]["id"] == "code"
        body = {**BODY, "max_tokens": 60, "stream": True}
        with httpx.stream("POST", f"{address}/v1/completions", json=body, timeout=60) as reply:
            lines = reply.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert rest[-2] == "data: [DONE]"
        assert process.wait(30) == 0
    assert not any(map(running, pids))
    assert process.stderr is not None
    assert "Traceback" not in (told := process.stderr.read())
    assert "lost" not in told
    # of the worker
    assert len([line for line in told.splitlines() if "/v1/completions" in line]) == 1


def test_one_that_is_killed_is_started_again_and_nothing_else_is_lost(
    bundle: Path, tmp_path: Path
) -> None:
    with two_workers(bundle, tmp_path) as (process, address):
        bodies = [{**BODY, "prompt": f"a{n}\nb\nc\nd{n}\n", "max_tokens": 40} for n in range(20)]
        before = [
            httpx.post(f"{address}/v1/completions", json=body, timeout=60).json() for body in bodies
        ]
        victim = children(process)[0]
        os.kill(victim, signal.SIGKILL)
        after = [httpx.post(f"{address}/v1/completions", json=body, timeout=60) for body in bodies]
        assert all(reply.status_code == 200 for reply in after)
        assert [each["choices"] for each in before] == [reply.json()["choices"] for reply in after]
        until(lambda: ready(address) == 2, 60)
        assert victim not in children(process)


def test_none_is_left_where_the_front_is_killed(bundle: Path, tmp_path: Path) -> None:
    with two_workers(bundle, tmp_path) as (process, _):
        pids = children(process)
        process.kill()
        until(lambda: not any(map(running, pids)))


def test_keys_are_the_workers_too(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("first-key-of-all\nsecond-key-of-all\n")
    with two_workers(bundle, tmp_path, "--key-file", tmp_path / "keys") as (_, address):
        assert httpx.post(f"{address}/v1/completions", json=BODY, timeout=60).status_code == 401
        headers = {"authorization": "Bearer second-key-of-all"}
        reply = httpx.post(f"{address}/v1/completions", json=BODY, headers=headers, timeout=60)
        assert reply.status_code == 200


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["absent", "--workers", "2"], "absent"),
        (["BUNDLE", "--workers", "1000"], "workers is 1000, expected at most"),
        (["BUNDLE", "--workers", "0"], "workers is 0, expected 1 or more"),
    ],
)
def test_mistakes_end_it(bundle: Path, tmp_path: Path, arguments: list[str], told: str) -> None:
    arguments = [str(bundle) if each == "BUNDLE" else each for each in arguments]
    command = [sys.executable, "-m", "sc2onnx", "serve", *arguments, "--port", "0"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False
    )
    assert done.returncode != 0
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@contextmanager
def routing(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "sc2onnx", "route", *arguments, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        while "listening" not in (told := process.stderr.readline()):
            assert told, "it ended"
        address = re.search(r"http://\S+?(?=,)", told)
        assert address is not None
        yield process, address[0]
    finally:
        process.kill()
        process.wait()


def test_routes_to_servers_elsewhere(bundle: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(started(bundle, cwd=tmp_path)) for _ in range(2)]
        flags = [part for _, url in servers for part in ("--member", url)]
        process, address = stack.enter_context(routing(*flags))
        until(lambda: httpx.get(f"{address}/health", timeout=60).status_code == 200)
        until(lambda: ready(address) == 2, 60)
        assert httpx.post(f"{address}/v1/completions", json=BODY, timeout=60).status_code == 200
        servers[0][0].send_signal(signal.SIGTERM)
        servers[0][0].wait(30)
        for number in range(6):
            body = {**BODY, "prompt": f"a\nb\nc\nd{number}\n"}
            assert httpx.post(f"{address}/v1/completions", json=body, timeout=60).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "nobody to route to"),
        (["--member", "https://engine"], "expected http://HOST:PORT"),
        (["--discover", "engine"], "expected HOST:PORT"),
        (["--member", "http://a", "--host", "0.0.0.0"], "without a key"),
        (["--member", "http://a", "--slots", "0"], "slots is 0"),
    ],
)
def test_mistakes_of_routes_are_a_line(arguments: list[str], told: str) -> None:
    command = [sys.executable, "-m", "sc2onnx", "route", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert told in done.stderr
