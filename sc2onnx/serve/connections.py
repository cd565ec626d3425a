"""Connections: how many there are, and how long one may take to say what it asks for.

uvicorn waits without an end for the headers of a request, and refuses what is too many in words of
its own.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from sc2onnx.serve.settings import Settings

LOG: Final = logging.getLogger("sc2onnx.serve")


def bounded(settings: Settings) -> type[asyncio.Protocol]:
    """The protocol of a server's connections: as many as ``connections``, each of which sends its
    next request's headers within ``patience`` seconds of its first byte.
    """

    class Bounded(_Bounded):
        most, patience = settings.connections, settings.patience

    return Bounded


class _Bounded(H11Protocol):
    most: int
    patience: float
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See :class:`asyncio.Protocol`."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            LOG.warning("there are as many connections as the server takes: one more was closed")
            transport.abort()
            return
        self._wait()

    def data_received(self, data: bytes) -> None:
        """See :class:`asyncio.Protocol`."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._wait()
        else:
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """See :class:`asyncio.Protocol`."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.patience, self._late)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if cast(Any, self.conn.their_state) is h11.IDLE and not self.transport.is_closing():
            self.transport.abort()
