"""Members that misbehave: servers in a thread that say, byte by byte, what a test has them say."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Fake:
    """A server, the paths that it was asked, and the heads of these requests.
    ``healthy``: what it says of itself; with ``silent`` nothing.
    """

    url: str = ""
    asked: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    gone: int = 0
    healthy: bool = True
    silent: bool = False


def json(status: str, body: str, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "content-type: application/json", *headers]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", body]).encode()


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(text: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(text), text)


@contextmanager
def faking(answer: Answer) -> Iterator[Fake]:
    """A server on this machine whose ``/health`` is as :attr:`Fake.healthy` says; all else is
    ``answer``'s, which the connection is closed after.
    """
    fake, loop = Fake(), asyncio.new_event_loop()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    (line for line in head.lower().split("\r\n") if "content-length" in line), ":0"
                )
                await reader.readexactly(int(length.split(":")[1]))
                if (path := head.split(" ")[1]) != "/health":
                    fake.asked.append(path)
                    fake.heads.append(head)
                    try:
                        await answer(reader, writer)
                    except asyncio.CancelledError:
                        raise
                    except ConnectionError:
                        fake.gone += 1
                    break
                if fake.silent:
                    continue
                writer.write(
                    json("200 OK", "{}") if fake.healthy else json("503 No", "Loading model")
                )
                await writer.drain()
        writer.transport.abort()

    server = loop.run_until_complete(asyncio.start_server(one, "127.0.0.1", 0))
    host, port = server.sockets[0].getsockname()
    fake.url = f"http://{host}:{port}"
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield fake
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        server.close()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def saying(*parts: bytes) -> Answer:
    """An answer that is sent, and the connection cut after it."""

    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.05)

    return say


async def nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """No answer, for as long as somebody waits for one."""
    await reader.read()
    raise ConnectionError


async def going_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The beginning of a stream that goes on for as long as somebody reads it."""
    writer.write(STREAM % b"text/event-stream" + chunk(b"data: {}\n\n"))
    await writer.drain()
    await nothing(reader, writer)
