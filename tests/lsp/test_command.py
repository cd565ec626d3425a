"""The command before and beside the protocol: mistakes, and what it prints."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE


def test_mistakes_are_a_line(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("# none\n")
    mistakes: list[tuple[list[object], str]] = [
        ([], "expected either a bundle or --server URL"),
        ([bundle, "--server", "http://127.0.0.1:1"], "expected either a bundle or --server URL"),
        ([bundle, "--key-file", tmp_path / "empty"], "--key-file is for --server"),
        (["--server", "localhost:8012"], "expected http://HOST:PORT"),
        (["--server", "http://127.0.0.1:1", "--key-file", tmp_path / "empty"], "has no key"),
        ([bundle, "--max-tokens", "0"], "maxTokens is 0, expected a whole number from 1 to 4096"),
    ]
    for arguments, told in mistakes:
        command = [sys.executable, "-m", "sc2onnx", "lsp", *map(str, arguments)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert told in done.stderr
        assert done.stderr.count("\n") == 1


def test_nothing_but_the_protocol_is_on_standard_output(bundle: Path, tmp_path: Path) -> None:
    program = f"import sys; sys.argv = ['sc2onnx', 'lsp', {str(bundle)!r}]\n" + (
        "import os, sc2onnx.runtime.loading as loading\n"
        "def load(*given, **options):\n    print('noise', flush=True); os.write(1, b'noise'); "
        "raise ValueError('no')\n"
        "loading.load = load\nfrom sc2onnx.cli.main import entry\nentry()\n"
    )
    body = b'{"jsonrpc": "2.0", "method": "initialized", "params": {}}'
    first = (
        b'{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"capabilities": {}, '
        b'"processId": null, "rootUri": null}}'
    )
    last = b'{"jsonrpc": "2.0", "id": 2, "method": "shutdown"}'
    given = b"".join(
        b"Content-Length: %d\r\n\r\n%s" % (len(each), each) for each in (first, body, last)
    )
    heard = tmp_path / "stderr"
    with (
        heard.open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-c", program], stdin=PIPE, stdout=PIPE, stderr=stderr
        ) as process,
    ):
        assert process.stdin is not None
        process.stdin.write(given)
        process.stdin.flush()
        late = time.monotonic() + 30
        while heard.read_bytes().count(b"noise") < 2 and time.monotonic() < late:
            time.sleep(0.02)
        out, _ = process.communicate(timeout=30)
    assert heard.read_bytes().count(b"noise") == 2
    assert b"ValueError: no" in heard.read_bytes()
    assert process.returncode == 0
    assert out.startswith(b"Content-Length: ")
    assert b"noise" not in out
    assert b"inlineCompletionProvider" in out


def test_what_is_no_request_is_answered_and_a_line_in_the_log(bundle: Path, tmp_path: Path) -> None:
    bodies = [
        (
            b'{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"capabilities": {}, '
            b'"processId": null, "rootUri": null}}'
        ),
        (
            b'{"jsonrpc": "2.0", "id": 7, "method": "textDocument/inlineCompletion", "params": '
            b'{"position": "here"}}'
        ),
        b'{"jsonrpc": "2.0", "method": "textDocument/didChange", "params": {"contentChanges": 5}}',
        b'{"jsonrpc": "2.0", "id": 9, "method": "shutdown"}',
    ]
    given = b"".join(b"Content-Length: %d\r\n\r\n%s" % (len(each), each) for each in bodies)
    command = [sys.executable, "-m", "sc2onnx", "lsp", str(bundle)]
    done = subprocess.run(
        command, input=given, capture_output=True, cwd=tmp_path, timeout=60, check=False
    )
    answers = {
        each["id"]: each
        for each in map(json.loads, re.findall(rb"\{.*?\}(?=Content-Length|$)", done.stdout))
        if "id" in each
    }
    assert answers[7]["error"]["code"] == -32602
    assert answers[9]["result"] is None
    assert b"Traceback" not in done.stderr
    assert (
        len([line for line in done.stderr.splitlines() if b"is not as the protocol has it" in line])
        == 2
    )
