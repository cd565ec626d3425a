"""Completions by a server: sc2onnx's own, and such as refuse, are gone, or speak something else."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from lsprotocol import types
from pygls.exceptions import JsonRpcException

import sc2onnx
from sc2onnx.serve.settings import Settings
from tests.lsp.conftest import Editor, editor, until
from tests.serve.conftest import Served, serving

pytestmark = pytest.mark.asyncio

BEFORE = "def add(a, b):\n    return "
AFTER = "\n\nprint(add(1, 2))\n"


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that answers every request with the same."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def listens(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.ConnectError:
        return False


async def test_it_gives_what_the_model_behind_the_server_infills(served: Served) -> None:
    async with editor("--server", served.url) as one:
        await one.initialize()
        one.open("other.py", "def sub(a, b):\n    return a - b\n")
        uri = one.open("src/a.py", BEFORE + AFTER)
        await one.ready()
        for mode, line, character, before in (
            ("block", 1, 11, BEFORE),
            ("line", 1, 9, BEFORE[:-2]),
        ):
            after = (BEFORE + AFTER)[len(before) :]
            files = {"other.py": "def sub(a, b):\n    return a - b\n"}
            expected = served.model.infill(
                before,
                after,
                path="src/a.py",
                files=files,
                order="spm",
                heal=True,
                ends=mode,  # type: ignore[arg-type]
            ).text
            items = await one.items(uri, line, character)
            assert [item.insert_text for item in items] == ([expected] if expected.strip() else [])
        assert one.told == []
        assert await one.end() == 0


async def test_cancelling_stops_the_server_s_work(served: Served) -> None:
    async with editor(
        "--server", served.url, "--mode", "free", "--max-tokens", "1900", "--timeout", "60"
    ) as one:
        await one.initialize()
        uri = one.open("a.py", "x = [")
        await one.ready()
        active = served.model.engine.lobby.active
        await until(lambda: not active)
        going = asyncio.create_task(one.items(uri, 0, 5, number="first"))
        await until(lambda: any(row.produced and row.terms.priority == 0 for row in active))
        row = next(row for row in active if row.produced and row.terms.priority == 0)  # others warm
        one.client.cancel_request(types.CancelParams("first"))
        with pytest.raises(JsonRpcException):
            await going
        await until(lambda: not served.model.engine.lobby.rows, 2)
        assert row.finish_reason == "cancelled"


async def test_a_newer_request_takes_the_place_of_an_older_one(served: Served) -> None:
    options = ("--mode", "free", "--max-tokens", "1900", "--timeout", "60")
    async with editor("--server", served.url, *options) as one:
        await one.initialize()
        uri = one.open("a.py", "x = [")
        await one.ready()
        active = served.model.engine.lobby.active
        await until(lambda: not active)
        older = asyncio.create_task(one.items(uri, 0, 5))
        await until(lambda: any(row.produced for row in active))
        newer = asyncio.create_task(one.items(uri, 0, 4))
        assert not await older
        assert not newer.done()
        assert await newer


async def test_two_editors_at_one_server(served: Served) -> None:
    async with editor("--server", served.url) as one, editor("--server", served.url) as other:
        texts = ("x = [", "y = {1: ")

        async def asked(each: Editor, text: str) -> str | types.StringValue:
            await each.initialize()
            [item] = await each.items(each.open("a.py", text), 0, len(text))
            return item.insert_text

        found = await asyncio.gather(
            *(asked(each, text) for each, text in zip((one, other), texts, strict=True))
        )
        assert found == [
            served.model.infill(text, "", path="a.py", order="spm", heal=True, ends="block").text
            for text in texts
        ]


async def test_with_the_key_and_without(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("# of the team\nlong-enough-key\n")
    with serving(sc2onnx.load(bundle), Settings(port=0, keys=("long-enough-key",))) as running:
        async with editor("--server", running.url, "--key-file", tmp_path / "key") as one:
            await one.initialize()
            assert await one.items(one.open("a.py", "x = ["), 0, 5)
            assert one.told == []
        async with editor("--server", running.url) as one:
            await one.initialize()
            uri = one.open("a.py", "x = [")
            for _ in range(3):
                assert not await one.items(uri, 0, 5)
            [told] = one.told
            assert told == (
                f"sc2onnx: the server at {running.url} wants another key, or one at all: give "
                "the file that holds it (--key-file FILE)"
            )


async def test_a_server_that_comes_and_goes(bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with editor("--server", f"http://127.0.0.1:{port}") as one:
        await one.initialize()
        uri = one.open("a.py", "x = [")
        for count in (1, 2):
            for _ in range(3):
                assert not await one.items(uri, 0, 5)
            assert len(one.told) == count
            assert "cannot be reached" in one.told[-1]
            with serving(sc2onnx.load(bundle), Settings(port=port)) as running:
                await until(lambda: listens(running.url))
                assert await one.items(uri, 0, 5), one.told
        assert await one.end() == 0


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (429, b'{"error": {"message": "come\\nlater", "code": 429}}', "refuses (429): come later"),
        (
            503,
            b'{"error": {"message": "Loading model", "code": 503}}',
            "refuses (503): Loading model",
        ),
        (404, b"", "refuses (404): it does not say why"),
        (200, b"<html>\n", "does not speak llama.cpp's /infill"),
        (200, b"[1]\n", "does not speak llama.cpp's /infill"),
    ],
)
async def test_servers_that_refuse_are_told_of_once(status: int, body: bytes, told: str) -> None:
    with answering(status, body) as url:
        async with editor("--server", url + "/") as one:
            await one.initialize()
            uri = one.open("a.py", "x = [")
            for _ in range(3):
                assert not await one.items(uri, 0, 5)
            assert len(one.told) == 1
            assert told in one.told[0]


async def test_an_answer_that_is_no_stream_and_an_error_inside_one() -> None:
    with answering(200, b'{"content": "1,\\n  2]\\nz = 3\\nw", "stop": true}\n') as url:
        async with editor("--server", url) as one:
            await one.initialize({"mode": "line"})
            [item] = await one.items(one.open("a.py", "x = ["), 0, 5)
            assert item.insert_text == "1,"
    with answering(
        200,
        b'data: {"content": "1"}\n\ndata: {"error": {"message": "out '
        b'of\\nslots", "code": 500}}\n\n',
    ) as url:
        async with editor("--server", url) as one:
            await one.initialize()
            with pytest.raises(JsonRpcException, match=r"refuses \(500\): out of slots"):
                await one.items(one.open("a.py", "x = ["), 0, 5)
