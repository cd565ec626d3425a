"""An ASGI application, called in its own process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Message, Scope

from sc2onnx.fleet.member import Call, Headers

Begun = tuple[int, Headers, bytes]
"""The status of an answer, its headers, and what of its body is there already."""


async def answered(app: ASGIApp, call: Call) -> AsyncGenerator[Begun | bytes, None]:
    """How an answer begins, and then parts of its body as they come. Closing it ends the request.

    Raises what the application raises.
    """
    sent = asyncio.Queue[Message | None]()
    running = asyncio.create_task(_run(app, call, sent))
    try:
        start = await sent.get()
        if start is not None:
            ended, body = _joined(sent, [])
            yield (
                start["status"],
                [(bytes(name), bytes(value)) for name, value in start["headers"]],
                body,
            )
            while not ended:
                ended, body = _joined(sent, [await sent.get()])
                if body:
                    yield body
        await running
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await running


def _joined(sent: asyncio.Queue[Message | None], found: list[Message | None]) -> tuple[bool, bytes]:
    """Whether an answer has ended, and what has been sent of it meanwhile."""
    while not sent.empty():
        found.append(sent.get_nowait())
    body = b"".join(message.get("body", b"") for message in found if message is not None)
    return any(message is None or not message.get("more_body") for message in found), body


async def _run(app: ASGIApp, call: Call, sent: asyncio.Queue[Message | None]) -> None:
    given = [{"type": "http.request", "body": call.body, "more_body": False}]

    async def receive() -> Message:
        if given:
            return given.pop()
        await asyncio.Event().wait()  # who asked is gone when this task is cancelled
        raise AssertionError

    try:
        await app(_scope(call), receive, sent.put)
    finally:
        sent.put_nowait(None)


def _scope(call: Call) -> Scope:
    path, _, query = call.target.partition(b"?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": call.method.decode(),
        "scheme": "http",
        "path": unquote_to_bytes(path).decode("utf-8", "replace"),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in call.headers],
        "client": None,
        "server": None,
    }
    return scope
