"""Who may ask, and how much: each lesson of other servers is a test."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import sc2onnx
from sc2onnx.errors import RequestError
from sc2onnx.serve.app import application
from sc2onnx.serve.service import Service
from sc2onnx.serve.settings import Settings
from tests.serve.conftest import Served, serving

KEY = "a-key-of-some-length"
BODY = {"prompt": "def f():\n", "max_tokens": 2, "temperature": 0}


@pytest.fixture(scope="module")
def keyed(bundle: Path) -> Iterator[Served]:
    settings = Settings(
        port=0,
        keys=("another-key-here", KEY),
        origins=("https://page.example",),
        body_bytes=10_000,
        waiting=4,
    )
    with serving(sc2onnx.load(bundle), settings) as running:
        yield running


def test_other_addresses_need_a_key() -> None:
    with pytest.raises(RequestError, match="without a key"):
        Settings(host="0.0.0.0")
    assert Settings(host="0.0.0.0", keys=(KEY,)).keys == (KEY,)
    with pytest.raises(RequestError, match="fewer than 8 characters"):
        Settings(keys=("short",))


@pytest.mark.parametrize(
    "path",
    [
        "/v1/completions",
        "/completions",
        "/infill",
        "/completion",
        "/tokenize",
        "/detokenize",
        "/v1/chat/completions",
        "/api/generate",
        "/api/show",
        "/v1/fim/completions",
        "/nope",
    ],
)
def test_every_path_asks_for_the_key(keyed: Served, path: str) -> None:
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": KEY[:-1]},
        {"x-api-key": ""},
    ):
        reply = keyed.post(path, BODY, headers=headers)
        assert reply.status_code == 401
        error = reply.json()["error"]
        if path.startswith("/api/"):  # a text, in Ollama's words
            assert error.startswith("the key is missing or wrong")
        else:
            assert error["type"] == "authentication_error"


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/props",
        "/slots",
        "/v1/models",
        "/models",
        "/api/tags",
        "/api/ps",
        "/api/version",
    ],
)
def test_so_does_what_tells_of_the_server(keyed: Served, path: str) -> None:
    assert keyed.get(path).status_code == 401
    assert keyed.get(path, headers={"x-api-key": KEY}).status_code == 200


def test_health_is_open(keyed: Served) -> None:
    assert keyed.get("/health").status_code == 200
    assert keyed.get("/livez").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"x-api-key": KEY},
        {"authorization": "Bearer another-key-here"},
    ],
)
def test_any_of_the_keys_opens(keyed: Served, headers: dict[str, str]) -> None:
    assert keyed.post("/v1/completions", BODY, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8012", "127.0.0.1.evil.example", "", "localhost.evil.example"],
)
def test_a_name_that_was_made_to_point_here_is_refused(served: Served, host: str) -> None:
    for path in ("/health", "/v1/models"):
        assert served.get(path, headers={"host": host}).status_code in (400, 403)


def test_its_own_names_are_not(served: Served) -> None:
    port = served.url.rsplit(":", 1)[1]
    for host in ("localhost", f"localhost:{port}", f"127.0.0.1:{port}", "[::1]:80"):
        assert served.get("/health", headers={"host": host}).status_code == 200


def test_pages_that_are_not_listed_get_nothing(keyed: Served) -> None:
    headers = {"x-api-key": KEY, "origin": "https://evil.example"}
    reply = keyed.post("/v1/completions", BODY, headers=headers)
    assert reply.status_code == 403
    assert "access-control-allow-origin" not in reply.headers


def test_pages_that_are_listed_may_ask(keyed: Served) -> None:
    headers = {"x-api-key": KEY, "origin": "https://page.example"}
    reply = keyed.post("/v1/completions", BODY, headers=headers)
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == "https://page.example"
    asked = httpx.options(
        keyed.url + "/v1/completions",
        headers={"origin": "https://page.example", "access-control-request-method": "POST"},
    )
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == "https://page.example"


def test_what_a_page_may_send_unasked_is_refused(served: Served) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        reply = httpx.post(
            served.url + "/v1/completions",
            content=b'{"prompt": "x"}',
            headers={"content-type": kind},
        )
        assert reply.status_code == 415


NINES = int("9" * 400)


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("/infill", {"logit_bias": {"1" * 4000: 1}}),
        ("/infill", {"logit_bias": [[10**30, 1]]}),
        ("/infill", {"logit_bias": [[1, 1]] * 5000}),
        ("/infill", {"t_max_predict_ms": NINES}),
        ("/infill", {"t_max_prompt_ms": NINES}),
        ("/infill", {"n_predict": NINES}),
        ("/infill", {"response_fields": ["/" * 10_000]}),
        ("/infill", {"filename": "f" * 10_000}),
        ("/infill", {"input_extra": [{"text": "x"}] * 1000}),
        ("/v1/completions", {"logit_bias": {"1" * 4000: 1}}),
        ("/v1/completions", {"logit_bias": {str(2**63): 1}}),
        ("/v1/completions", {"max_tokens": NINES}),
        ("/v1/completions", {"n": NINES}),
        ("/api/generate", {"options": {"num_predict": NINES}}),
        ("/v1/fim/completions", {"max_tokens": NINES}),
    ],
)
def test_numbers_and_lists_are_bounded(served: Served, path: str, wrong: dict[str, Any]) -> None:
    reply = served.post(path, {"prompt": "x", "input_prefix": "x", **wrong})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]


def test_a_text_to_tokenize_is_bounded(served: Served) -> None:
    assert served.post("/tokenize", {"content": "a" * 100_000}).status_code == 413
    assert served.post("/detokenize", {"tokens": [1] * 100_000}).status_code == 400


def test_a_program_may_leave_the_type_out(served: Served) -> None:
    """Pages' requests bring their origin, and browsers say where they come from."""

    def status(headers: dict[str, str]) -> int:
        content = b'{"prompt": "x", "max_tokens": 1}'
        return httpx.post(
            served.url + "/v1/completions", content=content, headers=headers
        ).status_code

    assert status({}) == 200
    assert status({"origin": served.url}) == 415
    assert status({"sec-fetch-site": "cross-site"}) == 415
    assert status({"origin": "null"}) == 403


def test_bodies_are_bounded(keyed: Served) -> None:
    headers = {"x-api-key": KEY, "content-type": "application/json"}
    reply = httpx.post(keyed.url + "/v1/completions", content=b" " * 20_000, headers=headers)
    assert reply.status_code == 413
    deep = b'{"json_schema":' + b'{"a":' * 1800 + b"1" + b"}" * 1800 + b"}"
    assert httpx.post(keyed.url + "/infill", content=deep, headers=headers).status_code in (
        400,
        413,
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"prompt": 1}',
        b"\xff\xfe",
        b'{"prompt":"x","max_tokens":1e400}',
        b'{"prompt":"\\ud800"}',
    ],
)
def test_what_is_no_request_is_told_so(served: Served, body: bytes) -> None:
    reply = httpx.post(
        served.url + "/v1/completions", content=body, headers={"content-type": "application/json"}
    )
    assert reply.status_code == 400
    assert reply.json()["error"]["message"]


def test_when_there_is_too_much_to_do_clients_come_again(keyed: Served) -> None:
    headers = {"x-api-key": KEY}
    keyed.service._going = 3  # somebody else's
    reply = keyed.post("/v1/completions", {**BODY, "prompt": ["a", "b"]}, headers=headers)
    keyed.service._going = 0
    assert reply.status_code == 429
    assert reply.headers["retry-after"] == "1"
    never = keyed.post("/v1/completions", {**BODY, "prompt": ["a", "b", "c"]}, headers=headers)
    assert never.status_code == 400
    assert "at most 2" in never.text


def test_a_request_that_waits_in_vain_is_told_to_come_later(bundle: Path) -> None:
    with serving(sc2onnx.load(bundle, max_batch=1), Settings(port=0, queue_seconds=0.2)) as busy:
        body = {
            "prompt": "def f():\n",
            "max_tokens": 1900,
            "ignore_eos": True,
            "temperature": 1,
            "seed": 1,
        }
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(busy.post, "/v1/completions", body)
            while not busy.model.engine.lobby.active:
                time.sleep(0.001)
            whole = busy.post("/v1/completions", BODY)
            streamed = busy.post("/v1/completions", {**BODY, "stream": True})
            busy.service.over(list(busy.service.under_way))
            first.result()
        assert whole.status_code == 429
        assert int(whole.headers["retry-after"]) >= 1
        assert '"type":"rate_limit_error"' in streamed.text.splitlines()[0]
        assert busy.post("/v1/completions", BODY).status_code == 200


def test_while_models_load_and_while_it_ends() -> None:
    async def states() -> None:
        service = Service(Settings())
        transport = httpx.ASGITransport(application(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            for path in ("/health", "/v1/models"):
                reply = await client.get(path)
                assert reply.status_code == 503
                assert reply.json()["error"]["message"] == "Loading model"
            assert (await client.get("/livez")).status_code == 200
            await service.drain()
            reply = await client.get("/health")
            assert (reply.status_code, reply.json()["error"]["message"]) == (
                503,
                "the server is ending",
            )

    asyncio.run(states())


def test_headers_are_bounded(served: Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nx: ")
        try:
            for _ in range(64):
                connection.sendall(b"y" * 16_384)
            answer = connection.recv(4096)
        except OSError:  # it hung up
            answer = b""
    assert answer == b"" or b"400" in answer.split(b"\r\n")[0]


def test_who_does_not_read_is_not_waited_for(bundle: Path) -> None:
    """Nor who does not send: both hold what others wait for."""
    body = b'{"prompt": "def f():", "max_tokens": 500, "temperature": 1, "seed": 1, "stream": true}'
    head = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "path": "/v1/completions",
        "raw_path": b"/v1/completions",
        "method": "POST",
        "headers": head,
        "query_string": b"",
    }
    model = sc2onnx.load(bundle)

    async def asked(whole: bool) -> list[int]:
        service, statuses, parts = Service(Settings(patience=0.2)), list[int](), 0
        service.ready({"mini": model})
        came = [{"type": "http.request", "body": body, "more_body": not whole}]

        async def receive() -> dict[str, object]:
            if not came:
                await asyncio.sleep(30)
            return came.pop()

        async def send(message: Any) -> None:
            nonlocal parts
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            parts += 1
            if whole and parts > 3:
                await asyncio.sleep(30)

        async with asyncio.timeout(20):
            await application(service)(scope, receive, send)
        assert not service.under_way
        return statuses

    assert asyncio.run(asked(whole=True)) == [200]
    assert asyncio.run(asked(whole=False)) == [408]
    model.stop()


def test_one_key_does_not_end_what_another_asks(keyed: Served) -> None:
    body = {
        "language": "python",
        "user": "me",
        "segments": {"prefix": "def f():\n    x = [", "suffix": "", "filepath": "a.py"},
    }
    expected = keyed.post("/v1/completions", body, headers={"x-api-key": KEY}).json()["choices"]

    def asked(key: str) -> list[httpx.Response]:
        """One after the other: those of one key end each other."""
        headers = {"x-api-key": key}
        return [keyed.post("/v1/completions", body, headers=headers) for _ in range(10)]

    with ThreadPoolExecutor(2) as pool:
        found = [reply for each in pool.map(asked, [KEY, "another-key-here"]) for reply in each]
    told = [reply.json()["choices"] for reply in found if reply.status_code == 200]
    assert told == [expected] * len(told)
    assert len(told) > 10


def test_one_key_does_not_find_what_another_left_computed(keyed: Served) -> None:
    body = {"prompt": "class Secret:\n    value = 42\n" * 10, "max_tokens": 1, "temperature": 0}

    def cached(key: str) -> int:
        answer = keyed.post("/v1/completions", body, headers={"x-api-key": key}).json()
        return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])

    assert cached(KEY) == 0
    assert cached("another-key-here") == 0
    assert cached(KEY) > 50
