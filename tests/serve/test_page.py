"""The page at ``/``: how it is sent, and what needs a key beyond it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import sc2onnx
from sc2onnx.serve.guard import OPEN
from sc2onnx.serve.routes.page import FILES
from sc2onnx.serve.settings import Settings
from tests.serve.conftest import Served, serving

HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
PATHS = ["/", *(f"/{name}" for name in FILES if name != "index.html")]


@pytest.fixture(scope="module")
def keyed(bundle: Path) -> Iterator[Served]:
    with serving(sc2onnx.load(bundle), Settings(port=0, keys=("a-key-of-some-length",))) as running:
        yield running


@pytest.mark.parametrize("path", PATHS)
def test_it_comes_without_a_key_and_with_its_policy(keyed: Served, path: str) -> None:
    reply = keyed.get(path, headers=HTML)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == FILES[path.removeprefix("/") or "index.html"]
    parts = reply.headers["content-security-policy"].split(";")
    policy = dict(part.strip().split(" ", 1) for part in parts)
    for name in ("default-src", "frame-ancestors", "base-uri", "form-action"):
        assert policy.pop(name) == "'none'"
    assert set(policy.values()) == {"'self'"}
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"


def test_nothing_of_it_is_inline_or_from_elsewhere(served: Served) -> None:
    text = served.get("/", headers=HTML).text
    assert "<style" not in text
    assert "style=" not in text
    assert text.count("<script") == text.count("<script src=")
    assert "http" not in text


def test_what_it_asks_needs_the_key(keyed: Served) -> None:
    assert keyed.get("/v1/models", headers=HTML).status_code == 401
    assert keyed.post("/infill", {"prompt": "x"}, headers=HTML).status_code == 401
    for path in ("/page", "/page.js/", "//", "/index.html", "/page.js%2f..%2fmetrics"):
        assert keyed.get(path, headers=HTML).status_code == 401


def test_what_is_open_is_the_page_and_health() -> None:
    assert set(PATHS) | {"/health", "/livez", "/v2/health/live", "/v2/health/ready"} == OPEN


@pytest.mark.parametrize("path", PATHS)
def test_whoever_has_it_is_told_so(served: Served, path: str) -> None:
    first = served.get(path, headers=HTML)
    again = served.get(path, headers={**HTML, "if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert served.get(path, headers={**HTML, "if-none-match": 'W/"another"'}).status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_it_is_compressed_for_whoever_takes_it(served: Served, path: str) -> None:
    plain = served.get(path, headers={**HTML, "accept-encoding": "identity"})
    small = served.get(path, headers={**HTML, "accept-encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert small.headers["content-encoding"] == "gzip"
    assert small.content == plain.content  # the client has unpacked it
    assert int(small.headers["content-length"]) < len(plain.content)
    assert "accept-encoding" in small.headers["vary"]


@pytest.mark.parametrize("accept", ["*/*", "application/json", ""])
def test_programs_are_told_that_it_runs(keyed: Served, accept: str) -> None:
    reply = keyed.get("/", headers={"accept": accept})
    assert (reply.status_code, reply.text) == (200, "sc2onnx is running")
    assert reply.headers["content-type"].startswith("text/plain")
    assert httpx.head(keyed.url + "/", headers={"accept": accept}).status_code == 200


def test_it_goes_by_the_servers_names_only(keyed: Served) -> None:
    for path in PATHS:
        assert keyed.get(path, headers={**HTML, "host": "evil.example"}).status_code == 403


def test_a_server_without_it(bundle: Path) -> None:
    with serving(sc2onnx.load(bundle), Settings(port=0, page=False)) as running:
        assert running.get("/", headers=HTML).text == "sc2onnx is running"
        for path in PATHS[1:]:
            assert running.get(path, headers=HTML).status_code == 404
