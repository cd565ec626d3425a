"""The log: a line for each request, what it says, and what no client can make it say."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import sc2onnx
from sc2onnx.serve.logs import JsonLines, Logged, TextLines
from sc2onnx.serve.settings import Settings
from tests.serve.conftest import Served, serving
from tests.serve.test_run import started

KEY = "a-key-of-some-length"
OTHER = "another-key-here"
BODY = {"prompt": "def f():\n", "max_tokens": 2, "temperature": 0}
HEADERS = {"x-api-key": KEY}


@pytest.fixture(scope="module")
def keyed(bundle: Path) -> Iterator[Served]:
    with serving(sc2onnx.load(bundle), Settings(port=0, keys=(OTHER, KEY))) as running:
        yield running


Lines = Callable[[], list[dict[str, Any]]]


@contextmanager
def logged() -> Iterator[Lines]:
    """What is logged of requests meanwhile, as objects."""
    found, form = list[dict[str, Any]](), JsonLines()

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(json.loads(form.format(record)))

    handler, logger = Kept(), logging.getLogger("sc2onnx.serve.requests")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lambda: found
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def awaited(lines: Lines, number: int = 1) -> list[dict[str, Any]]:
    """The lines, once there are so many: they are written when an answer has been sent."""
    until = time.monotonic() + 20
    while len(lines()) < number and time.monotonic() < until:
        time.sleep(0.01)
    assert len(lines()) == number
    return lines()


def test_a_completion_has_one_line_with_what_it_took(keyed: Served) -> None:
    with logged() as lines:
        reply = keyed.post("/v1/completions", BODY, headers=HEADERS)
        (line,) = awaited(lines)
    assert {line[name] for name in ("method", "path", "status", "model")} == {
        "POST",
        "/v1/completions",
        200,
        "mini",
    }
    used = reply.json()["usage"]
    assert (line["prompt_tokens"], line["generated_tokens"]) == (
        used["prompt_tokens"],
        used["completion_tokens"],
    )
    assert line["ended"] == reply.json()["choices"][0]["finish_reason"]
    assert 0 < line["first_token_ms"] <= line["ms"]
    assert line["key"] == 1
    assert line["request_id"] == reply.headers["x-request-id"]


def test_reused_tokens_are_counted(keyed: Served) -> None:
    body = {**BODY, "prompt": "class Once:\n    value = 1\n" * 8}
    with logged() as lines:
        for _ in range(2):
            keyed.post("/v1/completions", body, headers=HEADERS)
        first, second = awaited(lines, 2)
    assert first["reused_tokens"] == 0
    assert 0 < second["reused_tokens"] < second["prompt_tokens"] == first["prompt_tokens"]


def test_a_stream_has_one_too(keyed: Served) -> None:
    with logged() as lines:
        reply = keyed.post("/v1/completions", {**BODY, "stream": True}, headers=HEADERS)
        (line,) = awaited(lines)
    assert reply.headers["x-request-id"] == line["request_id"]
    assert line["ended"] == "length"
    assert line["generated_tokens"] == 2
    assert line["first_token_ms"] <= line["ms"]


@pytest.mark.parametrize("stream", [True, False])
def test_clients_that_hang_up_are_gone(keyed: Served, stream: bool) -> None:
    wanted = {"prompt": "x", "max_tokens": 4000, "temperature": 1, "seed": 1, "stream": stream}
    body = json.dumps(wanted).encode()
    host, port = keyed.url.removeprefix("http://").split(":")
    head = f"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nx-api-key: {KEY}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with logged() as lines:
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(head.encode() + body)
            while not keyed.service.under_way:
                time.sleep(0.005)
        (line,) = awaited(lines)
    assert line["ended"] == "gone"
    assert line["model"] == "mini"


def test_a_request_that_a_newer_one_replaces_is_superseded(keyed: Served) -> None:
    body = {
        "language": "python",
        "segments": {"prefix": "def f():\n    ", "filepath": "a.py"},
        "user": "me",
    }

    async def both() -> None:
        async with httpx.AsyncClient(base_url=keyed.url, headers=HEADERS, timeout=60) as client:
            older = {**body, "temperature": 1.0, "seed": 1}
            first = asyncio.create_task(client.post("/v1/completions", json=older))
            while not keyed.service.under_way:
                await asyncio.sleep(0)
            await client.post("/v1/completions", json=body)
            await first

    with logged() as lines:
        asyncio.run(both())
        found = awaited(lines, 2)
    assert sorted(line["ended"] for line in found)[-1] == "superseded"


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/completions", {}, 401),
        ("/v1/completions", HEADERS, 200),
        ("/nope", HEADERS, 404),
        ("/v1/completions", {**HEADERS, "origin": "https://evil.example"}, 403),
        ("/infill", {**HEADERS, "content-type": "text/plain"}, 415),
        ("/v1/chat/completions", HEADERS, 501),
    ],
)
def test_refusals_have_one(keyed: Served, path: str, headers: dict[str, str], status: int) -> None:
    with logged() as lines:
        reply = keyed.post(path, BODY, headers=headers)
        (line,) = awaited(lines)
    assert reply.status_code == line["status"] == status
    assert reply.headers["x-request-id"] == line["request_id"]
    assert (line["ended"] == "refused") == (status != 200)


def test_neither_keys_nor_prompts_are_in_it(keyed: Served) -> None:
    secret = "a_secret_of_somebody"
    with logged() as lines:
        keyed.post("/v1/completions", {**BODY, "prompt": secret}, headers=HEADERS)
        wrong = {"authorization": f"Bearer {KEY}x"}
        keyed.post("/v1/completions", {"prompt": {secret: 1}}, headers=wrong)
        keyed.get(f"/v1/models?key={KEY}&prompt={secret}", headers=HEADERS)
        told = json.dumps(awaited(lines, 3))
    assert secret not in told
    assert KEY not in told


def test_prompts_are_in_it_where_that_is_asked_for(bundle: Path) -> None:
    with (
        serving(sc2onnx.load(bundle), Settings(port=0, log_prompts=True)) as running,
        logged() as lines,
    ):
        running.post("/v1/completions", BODY)
        code = {"input_prefix": "a\n", "prompt": "b", "input_suffix": "c", "n_predict": 1}
        running.post("/infill", code)
        first, second = awaited(lines, 2)
    assert first["prompts"] == [BODY["prompt"]]
    assert (second["prompts"][0]["prefix"], second["prompts"][0]["suffix"]) == ("a\nb", "c")


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("abc-1.2_X", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("a b", False),
        ("a\u00e9", False),
        ("", False),
    ],
)
def test_harmless_ids_of_clients_are_taken(keyed: Served, given: str, taken: bool) -> None:
    headers = {**HEADERS, "x-request-id": given}
    sent = {name: value.encode() for name, value in headers.items()}
    reply = keyed.get("/v1/models", headers=sent)
    assert (reply.headers["x-request-id"] == given) == taken
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", reply.headers["x-request-id"])


def test_probes_that_are_answered_have_none(keyed: Served) -> None:
    with logged() as lines:
        for path in ("/health", "/livez"):
            assert keyed.get(path).status_code == 200
        assert keyed.get("/metrics").status_code == 401
        (line,) = awaited(lines)
    assert line["path"] == "/metrics"


HOSTILE = [
    "/a\nINFO forged",
    "/a\r\nb",
    "/\x1b[31m",
    "/\u2028x",
    "/\u202ex",
    "/\x85x",
    "/a status=200",
    '/"x',
    "/\ud800",
    "/" + "x" * 5000,
]


@pytest.mark.parametrize("path", HOSTILE)
@pytest.mark.parametrize("form", [TextLines(), JsonLines()], ids=["text", "json"])
def test_no_path_begins_another_line_or_field(path: str, form: logging.Formatter) -> None:
    record = _of_request(path)
    line = form.format(record)
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 1200
    if isinstance(form, JsonLines):
        assert json.loads(line)["path"] == path[:200]
        assert json.loads(line)["status"] == 418
    else:
        parts = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)', line)
        assert [name for name, _ in parts] == [
            "request_id",
            "method",
            "path",
            "status",
            "ms",
            "ended",
        ]
        assert dict(parts)["status"] == "418"


def _of_request(path: str) -> logging.LogRecord:
    """The record of a request for a path, as the middleware makes it."""
    records = list[logging.LogRecord]()

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 418, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        pass

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler, logger = Kept(), logging.getLogger("sc2onnx.serve.requests")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        scope = {"type": "http", "method": "GET", "path": path, "headers": []}
        asyncio.run(
            Logged(answer, lambda: False, lambda status: None)(
                scope,
                send,  # type: ignore[arg-type]
                send,
            ),
        )
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return records[0]


def test_tracebacks_are_indented_and_begin_no_line() -> None:
    try:
        raise ValueError("x\n2026-01-01 INFO forged \x1b[31m")
    except ValueError:
        message, error = "failed\nINFO forged", sys.exc_info()
        record = logging.LogRecord("n", logging.ERROR, __file__, 1, message, None, error)
    first, *rest = TextLines().format(record).split("\n")
    assert first.endswith("ERROR n failed\\nINFO forged")
    assert rest
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    assert "ValueError" in json.loads(JsonLines().format(record))["exception"]


def test_the_command_logs_json_only(bundle: Path, tmp_path: Path) -> None:
    """uvicorn's messages, warnings and ours have one form, in which a name of a model is data."""
    options = ("--alias", "starcoder2", "--log", "json", "--log-prompts")
    with started(bundle, *options, cwd=tmp_path) as (process, address):
        httpx.post(f"{address}/v1/completions", json=BODY, timeout=60)
        process.terminate()
        assert process.wait(30) == 0
        assert process.stderr is not None
        lines = [json.loads(line) for line in process.stderr]
    told = [line["message"] for line in lines]
    assert any("Continue" in message for message in told)
    assert any("ready: starcoder2" in message for message in told)
    assert {line["logger"] for line in lines} >= {
        "sc2onnx.serve",
        "sc2onnx.serve.requests",
        "uvicorn.error",
    }
    assert [line["prompts"] for line in lines if line["message"] == "request"] == [[BODY["prompt"]]]


def test_the_command_says_that_prompts_are_logged(bundle: Path, tmp_path: Path) -> None:
    with started(bundle, "--log-prompts", cwd=tmp_path, before=(told := list[str]())) as _:
        pass
    assert "prompts are logged" in told[0]
