"""The log of a server: a line a message, in which nothing that clients send begins another line."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sc2onnx.messages import printable
from sc2onnx.serve.configuration import LogFormat
from sc2onnx.serve.entry import Entry

LOG: Final = logging.getLogger("sc2onnx.serve.requests")

PROBES: Final = frozenset({"/health", "/livez", "/metrics", "/v2/health/live", "/v2/health/ready"})
"""Paths that are asked every few seconds: their requests have no line when they are answered,
that the server is not ready (503) included."""

_FIELDS: Final = "fields"
_BARE: Final = re.compile(r"[\w./:+-]+", re.ASCII)


def set_up(form: LogFormat, always: Mapping[str, Any] | None = None) -> None:
    """Write what this program and its libraries log to standard error, in that form. ``always``:
    fields of every line.
    """
    handler = logging.StreamHandler(sys.stderr)
    if always:
        handler.addFilter(_Always(always))
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class _Always(logging.Filter):
    """Adds fields to every line."""

    def __init__(self, added: Mapping[str, Any]) -> None:
        super().__init__()
        self._added = added

    def filter(self, record: logging.LogRecord) -> bool:
        """See :class:`logging.Filter`."""
        setattr(record, _FIELDS, {**_fields(record), **self._added})
        return True


class TextLines(logging.Formatter):
    """A time, a level, a logger, a message, and fields as ``name=value``. A traceback follows on
    lines that are indented.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See :class:`logging.Formatter`."""
        head = f"{_time(record)} {record.levelname} {record.name} {printable(record.getMessage())}"
        pairs = [f"{name}={_bare(value)}" for name, value in _fields(record).items()]
        line = " ".join([head, *pairs])
        if not record.exc_info:
            return line
        trace = self.formatException(record.exc_info).splitlines()
        return "\n    ".join([line, *map(printable, trace)])


class JsonLines(logging.Formatter):
    """An object on one line, in ASCII: ``time``, ``level``, ``logger``, ``message``, fields, and
    for an error its ``exception``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See :class:`logging.Formatter`."""
        found = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found, default=str, separators=(",", ":"))


class Logged:
    """Has a line in the log for each request when it ends, and answers its id as ``X-Request-Id``.

    ``draining``: whether the server ends, and with it what it computes. ``count``: is told the
    status of each answer.
    """

    def __init__(
        self, app: ASGIApp, draining: Callable[[], bool], count: Callable[[int], None]
    ) -> None:
        self._app, self._draining, self._count = app, draining, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the specification of ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        entry, status, whole = Entry.begun(scope), None, False

        async def sending(message: Message) -> None:
            nonlocal status, whole
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = entry.id
            await send(message)
            whole = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self._app(scope, receive, sending)
        finally:
            self._count(status or 499)
            probe = scope["path"] in PROBES and status in (200, 503)
            if not (probe or entry.told_of):
                ended = entry.ended(status, whole=whole, draining=self._draining())
                LOG.info("request", extra={_FIELDS: entry.told(scope, status, ended)})


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(record, _FIELDS, {})
    return found


def _bare(value: Any) -> str:
    """A value that ends where it seems to: a text with spaces or quotes stands in quotes."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if _BARE.fullmatch(text) else json.dumps(value, default=str)
