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

_LINGERS: Final = 2.0
"""Seconds in which the rest of a request is read that is answered already."""

LOG: Final = logging.getLogger("sc2onnx.serve")


def bounded(settings: Settings) -> type[asyncio.Protocol]:
    """The protocol of a server's connections: as many as ``connections``, each of which sends its
    next request's headers within ``patience`` seconds of its first byte.
    """

    class Bounded(_Bounded):
        most, patience = settings.connections, settings.patience

    return Bounded


class _Ending:
    """A transport whose end does not wait for a client that reads nothing."""

    def __init__(self, transport: asyncio.Transport, patience: float) -> None:
        self._transport, self._patience = transport, patience

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        """Send what is left, for as long as a client may take for a part of its answer."""
        self._transport.close()
        asyncio.get_running_loop().call_later(self._patience, self._transport.abort)


class _Bounded(H11Protocol):
    most: int
    patience: float
    _timer: asyncio.TimerHandle | None = None
    _ends: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See :class:`asyncio.Protocol`."""
        super().connection_made(cast(asyncio.Transport, _Ending(transport, self.patience)))
        if len(self.connections) > self.most:
            LOG.warning("there are as many connections as the server takes: one more was closed")
            transport.abort()
            return
        self._wait()

    def data_received(self, data: bytes) -> None:
        """See :class:`asyncio.Protocol`."""
        super().data_received(data)
        if self._ends is not None and self.conn.their_state is not h11.SEND_BODY:
            self._ends.cancel()
            self._ends = None
        if self.conn.their_state is h11.IDLE:
            self._wait()
        else:
            self._stop()

    def pause_writing(self) -> None:
        """Wait for a client that does not read, but not for ever: uvicorn would."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.patience, self.transport.abort)

    def resume_writing(self) -> None:
        """See :class:`asyncio.Protocol`."""
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    def on_response_complete(self) -> None:
        """After an answer the rest of its request is read for a moment, so that the client sees the
        answer, and no longer.
        """
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and self._ends is None:
            self._ends = self.loop.call_later(min(_LINGERS, self.patience), self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """See :class:`asyncio.Protocol`."""
        self._stop()
        for timer in (self._ends, self._unread):
            if timer is not None:
                timer.cancel()
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
