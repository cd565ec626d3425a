"""Processes that serve on this machine: started, watched, started again, ended."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from sc2onnx.errors import OutputError
from sc2onnx.fleet.member import Member
from sc2onnx.fleet.members import Members
from sc2onnx.fleet.placement import Place, places
from sc2onnx.fleet.worker import FAILED, Orders
from sc2onnx.serve.configuration import Configuration

LOG: Final = logging.getLogger("sc2onnx.fleet")

_AGAIN: Final = (0.5, 30.0)
"""Seconds until a worker that ended is started again: the first time, and at most."""

_STEADY: Final = 60.0
"""Seconds after which a worker counts as one that runs."""


class FailedError(OutputError):
    """A worker cannot serve; what it has said tells why."""


class Workers:
    """Workers of one configuration, and the members by which a front reaches them.

    The first of them starts alone: it writes what the others only map, weights as the kernels read
    them.
    """

    def __init__(self, configuration: Configuration, keys: Sequence[str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="sc2onnx-"))
        self._keys = list(keys)
        found = places(configuration.workers, configuration.threads)
        self._orders = [
            self._order(configuration, number, place) for number, place in enumerate(found)
        ]
        self.members = Members(
            Member(each.name, "http://localhost", each.socket) for each in self._orders
        )
        self._processes = dict[str, asyncio.subprocess.Process]()
        self._ending = asyncio.Event()

    def _order(self, configuration: Configuration, number: int, place: Place) -> Orders:
        name = f"worker-{number}"
        own = replace(configuration, threads=place.threads)
        return Orders(name, str(self._folder / name), list(place.processors), self._keys, own)

    async def run(self) -> None:
        """Run them until :meth:`end`. Raises :class:`FailedError` where the first cannot serve."""
        first, *others = self._orders
        self.members.start()
        keeping = [asyncio.create_task(self._keep(first))]
        try:
            while not self.members.ready() and not keeping[0].done():
                await asyncio.sleep(0.05)
            keeping += [asyncio.create_task(self._keep(each)) for each in others]
            for each in keeping:
                await each
        finally:
            for each in keeping:
                each.cancel()

    async def _keep(self, orders: Orders) -> None:
        """Start a worker again whenever it ends."""
        seconds, loop = _AGAIN[0], asyncio.get_running_loop()
        while not self._ending.is_set():
            began = loop.time()
            status = await self._started(orders)
            if self._ending.is_set():
                return
            if status == FAILED and not self.members.ready():
                raise FailedError(f"{orders.name} cannot serve: see the line above")
            seconds = _AGAIN[0] if loop.time() - began > _STEADY else min(2 * seconds, _AGAIN[1])
            LOG.error("%s ended with status %s: again in %.0f s", orders.name, status, seconds)
            await asyncio.sleep(seconds)

    async def _started(self, orders: Orders) -> int:
        """Start a worker, and wait for its end."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sc2onnx.fleet.worker", stdin=asyncio.subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C at the terminal is for the front, which drains
        )  # fmt: skip
        self._processes[orders.name] = process
        assert process.stdin is not None
        with suppress(ConnectionError):
            process.stdin.write(msgspec.json.encode(orders) + b"\n")
            await process.stdin.drain()
        return await process.wait()

    async def end(self, seconds: float) -> None:
        """End them in order, and after so many ``seconds`` at once."""
        self._ending.set()
        await self.members.stop()
        running = [each for each in self._processes.values() if each.returncode is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for process in running:
                    await process.wait()
        for process in running:
            if process.returncode is None:
                process.kill()
                await process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
