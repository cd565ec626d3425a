"""Connections: how many, and how long one may take to say what it asks for."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import sc2onnx
from sc2onnx.serve.settings import Settings
from tests.serve.conftest import Served, serving

ASK = b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"


@pytest.fixture(scope="module")
def narrow(bundle: Path) -> Iterator[Served]:
    with serving(sc2onnx.load(bundle), Settings(port=0, connections=3, patience=0.5)) as running:
        yield running


def connected(served: Served) -> socket.socket:
    host, port = served.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def ended(connection: socket.socket) -> bool:
    """Whether the server hangs up."""
    try:
        return connection.recv(100) == b""
    except ConnectionError:
        return True


def answered(connection: socket.socket) -> bool:
    """Whether the server answers."""
    try:
        connection.sendall(ASK)
        answer = b""
        while not answer.endswith(b"}"):
            part = connection.recv(1000)
            if not part:
                return False
            answer += part
        return answer.startswith(b"HTTP/1.1 200")
    except ConnectionError:
        return False


@pytest.mark.parametrize("sent", [b"", b"GET /hea", ASK[:-2]])
def test_who_does_not_say_what_it_asks_for_is_hung_up_on(narrow: Served, sent: bytes) -> None:
    with connected(narrow) as connection:
        connection.sendall(sent)
        began = time.monotonic()
        assert ended(connection)
        assert 0.3 < time.monotonic() - began < 5


def test_nor_does_a_byte_now_and_then_keep_a_connection(narrow: Served) -> None:
    with connected(narrow) as connection:
        assert answered(connection)
        time.sleep(0.6)  # between requests it may be quiet
        assert answered(connection)
        began = time.monotonic()
        connection.settimeout(0.05)
        for byte in ASK[:-2] * 20:
            try:
                connection.sendall(bytes([byte]))
                if connection.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert time.monotonic() - began < 3


def dripped(connection: socket.socket, most: float) -> float:
    """How long a server takes a byte now and then."""
    began = time.monotonic()
    connection.settimeout(0.05)
    while time.monotonic() - began < most:
        try:
            connection.sendall(b"x")
            if connection.recv(1000) == b"":
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    return time.monotonic() - began


@pytest.mark.parametrize("path", ["GET /livez", "POST /nope", "POST /infill"])
def test_a_body_that_nobody_wants_does_not_keep_a_connection(narrow: Served, path: str) -> None:
    head = f"{path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100000\r\n\r\n"
    with connected(narrow) as connection:
        connection.sendall(head.encode())
        assert dripped(connection, 10) < 5


def over(connection: socket.socket) -> bool:
    """Whether the server has ended a connection that nobody reads."""
    try:
        for _ in range(100):
            connection.sendall(b"x")
            time.sleep(0.02)
    except ConnectionError:
        return True
    return False


def test_who_reads_nothing_does_not_keep_a_connection(narrow: Served) -> None:
    host, port = narrow.url.removeprefix("http://").split(":")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        connection.sendall(b"GET /page.js HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * 30)
        time.sleep(3)
        assert over(connection)


def test_connections_beyond_those_there_may_be_are_closed(narrow: Served) -> None:
    time.sleep(0.3)  # until it has seen that those before are gone
    with ExitStack() as stack:
        held = [stack.enter_context(connected(narrow)) for _ in range(3)]
        assert all(answered(connection) for connection in held)
        assert not answered(stack.enter_context(connected(narrow)))
        assert all(answered(connection) for connection in held)
    until = time.monotonic() + 5
    with ExitStack() as stack:
        while not answered(stack.enter_context(connected(narrow))) and time.monotonic() < until:
            time.sleep(0.02)
        assert time.monotonic() < until
