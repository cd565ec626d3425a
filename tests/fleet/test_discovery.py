"""Members come and go by a name's addresses."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from sc2onnx.errors import RequestError
from sc2onnx.fleet import discovery
from sc2onnx.fleet.discovery import Discovery
from sc2onnx.fleet.members import Members


def test_addresses_that_come_are_taken_in_and_those_that_go_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: list[list[str] | OSError] = [
        ["10.0.0.1"],
        OSError("once"),
        ["10.0.0.1", "::2"],
        ["::2"],
    ]
    seen: list[set[str]] = []
    monkeypatch.setattr(discovery, "EVERY", 0.0)

    async def run() -> None:
        members, looking = Members(), Discovery("engines:8012")
        loop = asyncio.get_running_loop()

        async def resolved(host: str, port: int, **_: Any) -> Any:
            seen.append({each.name for each in members.all})
            if not answers:
                raise asyncio.CancelledError
            found = answers.pop(0)
            if isinstance(found, OSError):
                raise found
            return [(socket.AF_INET, 0, 0, "", (address, port)) for address in found]

        monkeypatch.setattr(loop, "getaddrinfo", resolved)
        with pytest.raises(asyncio.CancelledError):
            await looking.run(members)
        await members.stop()

    asyncio.run(run())
    one, two = "http://10.0.0.1:8012", "http://[::2]:8012"
    assert seen == [set(), {one}, {one}, {one, two}, {two}]


@pytest.mark.parametrize(
    "place", ["", "engines", "engines:", ":8012", "engines:0", "engines:http", "a:99999"]
)
def test_what_is_no_place_is_refused(place: str) -> None:
    with pytest.raises(RequestError, match="expected HOST:PORT"):
        Discovery(place)
