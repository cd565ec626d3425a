"""The command: where it listens, what it says while it loads, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

BODY = {"prompt": "def f():\n", "max_tokens": 4, "temperature": 0}


@contextmanager
def started(
    *arguments: object,
    cwd: Path,
    before: list[str] | None = None,
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The server as a user starts it, and its address, when it is ready. ``before``: gets
    the lines before the one that has the address.
    """
    command = [sys.executable, "-m", "sc2onnx", "serve", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stderr is not None
        while "listening" not in (told := process.stderr.readline()):
            assert told, "it ended"
            (before if before is not None else []).append(told)
        address = re.search(r"http://\S+?(?=,)", told)
        assert address is not None, told
        until = time.monotonic() + 60
        while (
            httpx.get(f"{address[0]}/health", timeout=60).status_code != 200
            and time.monotonic() < until
        ):
            time.sleep(0.05)
        yield process, address[0]
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_until_a_signal_ends_it_in_order(
    bundle: Path, tmp_path: Path, sig: signal.Signals
) -> None:
    with started(bundle, "--alias", "code", cwd=tmp_path) as (process, address):
        assert httpx.get(f"{address}/v1/models").json()["data"][0]["id"] == "code"
        assert httpx.post(f"{address}/v1/completions", json=BODY, timeout=60).status_code == 200
        with httpx.stream(
            "POST",
            f"{address}/v1/completions",
            json={**BODY, "max_tokens": 60, "stream": True},
            timeout=60,
        ) as reply:
            lines = reply.iter_lines()
            next(lines)
            process.send_signal(sig)
            rest = list(lines)
        assert rest[-2] == "data: [DONE]"  # what runs has time to end
        assert process.wait(30) == 0
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()


def test_keys_come_from_a_file(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# of the team\nfirst-key-of-all\n\nsecond-key-of-all\n")
    with started(bundle, "--key-file", tmp_path / "keys", cwd=tmp_path) as (_, address):
        assert httpx.post(f"{address}/v1/completions", json=BODY, timeout=60).status_code == 401
        headers = {"authorization": "Bearer second-key-of-all"}
        assert (
            httpx.post(
                f"{address}/v1/completions", json=BODY, headers=headers, timeout=60
            ).status_code
            == 200
        )


def test_two_bundles_by_name(bundle: Path, int8_bundle: Path, tmp_path: Path) -> None:
    with started(bundle, "--alias", "one", "--model", f"two={int8_bundle}", cwd=tmp_path) as (
        _,
        address,
    ):
        assert [each["id"] for each in httpx.get(f"{address}/v1/models").json()["data"]] == [
            "one",
            "two",
        ]
        for name, status in (("one", 200), ("two", 200), ("", 200), ("three", 404)):
            assert (
                httpx.post(
                    f"{address}/v1/completions", json={**BODY, "model": name}, timeout=60
                ).status_code
                == status
            )


def test_a_signal_while_models_load_ends_it_at_once(tmp_path: Path) -> None:
    program = """
import os, signal, threading, time
from sc2onnx.serve.run import serve
from sc2onnx.serve.settings import Settings

def load():
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    time.sleep(60)

serve(Settings(port=0), load)
"""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program],
        timeout=50,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--host", "0.0.0.0"], "without a key"),
        (["--model", "nonsense"], "expected NAME=BUNDLE"),
        (["--key-file", os.devnull], "has no key"),
        (["--port", "70000"], "expected 0 to 65535"),
    ],
)
def test_mistakes_are_a_line(bundle: Path, tmp_path: Path, arguments: list[str], told: str) -> None:
    command = [sys.executable, "-m", "sc2onnx", "serve", str(bundle), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False
    )
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_bundle_that_is_none_ends_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sc2onnx", "serve", str(tmp_path / "absent"), "--port", "0"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "absent" in done.stderr
    assert "Traceback" not in done.stderr
