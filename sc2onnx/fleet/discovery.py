"""Members by a name that resolves to an address of each, as a headless service does."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final

from sc2onnx.errors import RequestError
from sc2onnx.fleet.member import Member
from sc2onnx.fleet.members import Members

LOG: Final = logging.getLogger("sc2onnx.fleet")

EVERY: Final = 3.0
"""Seconds between questions which addresses there are."""

_MOST: Final = 1024
"""Members that are taken in."""


class Discovery:
    """Looks for members at ``HOST:PORT``. They are known by their addresses: one that comes back
    at another is a new one, and has no cache then either.

    Raises :class:`~sc2onnx.errors.RequestError` for another text.
    """

    def __init__(self, place: str) -> None:
        host, colon, port = place.rpartition(":")
        if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
            raise RequestError(f"--discover is {place[:100]!r}, expected HOST:PORT")
        self._host, self._port = host.strip("[]"), int(port)
        self._leaving = set[asyncio.Future[None]]()  # which asyncio does not hold

    async def run(self, members: Members) -> None:
        """Take in who comes, and ask nobody who is gone. A name that does not resolve for once
        changes nothing.
        """
        known = set[str]()
        while True:
            found = await self.addresses()
            if found:
                for address in found - known:
                    members.add(Member(address, address))
                leaving = [members.remove(address) for address in known - found]
                for task in map(asyncio.ensure_future, leaving):
                    self._leaving.add(task)
                    task.add_done_callback(self._leaving.discard)
                known = found
            await asyncio.sleep(EVERY)

    async def addresses(self) -> set[str]:
        """The addresses of the name, as ``http://ADDRESS:PORT``; none where it does not resolve."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except OSError as error:
            LOG.warning("%s does not resolve (%s)", self._host, error)
            return set()
        hosts = sorted({str(each[4][0]) for each in found})[:_MOST]
        return {f"http://{_bracketed(host)}:{self._port}" for host in hosts}


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
