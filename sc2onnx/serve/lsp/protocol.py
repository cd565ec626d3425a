"""pygls' side of the protocol, and what it does otherwise."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final

from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pygls.protocol import LanguageServerProtocol, lsp_method
from pygls.protocol.json_rpc import JsonRPCNotification
from pygls.workspace import TextDocument, Workspace

LOG: Final = logging.getLogger("sc2onnx.serve")

_LINES: Final = re.compile(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+")


class Document(TextDocument):
    """A document whose lines end where the protocol says.

    pygls splits lines as Python does, at form feeds and at separators of Unicode too: where a file
    has one, every position after it, and so every edit, would be lines off.
    """

    @property
    def lines(self) -> Sequence[str]:
        """With their ends."""
        return tuple(_LINES.findall(self.source))


class LineWorkspace(Workspace):
    """A workspace of :class:`Document`."""

    def _create_text_document(
        self,
        doc_uri: str,
        source: str | None = None,
        version: int | None = None,
        language_id: str | None = None,
    ) -> Document:
        return Document(
            doc_uri,
            source=source or "",  # which pygls would read from disk
            version=version,
            language_id=language_id,
            sync_kind=self._sync_kind,
            position_codec=self._position_codec,
        )


class Protocol(LanguageServerProtocol):
    """The protocol's state of one server. ``over``: is set by ``exit``. ``status``: what the
    process is to exit with.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.over = threading.Event()
        self.status = 0

    def structure_message(self, data: dict[str, Any]) -> Any:
        """The message that JSON stands for. A request that is none is answered with an error: pygls
        would leave its client waiting.
        """
        try:
            return super().structure_message(data)
        except JsonRpcException as wrong:
            method = str(data.get("method", "a response"))[:100]
            LOG.error("%s is not as the protocol has it: it is left out", method)
            if "id" in data and "method" in data:
                self._send_response(data["id"], error=wrong.to_response_error())
            return JsonRPCNotification("$/malformed", self.VERSION, None)

    @lsp_method(types.INITIALIZE)
    def lsp_initialize(self, params: types.InitializeParams) -> Generator[Any, Any, Any]:
        """Answer ``initialize`` as pygls does, over a workspace of our documents."""
        result = yield from super().lsp_initialize(params)
        made = self.workspace
        folders = list(made.folders.values())
        self._workspace = LineWorkspace(
            made.root_uri, made._sync_kind, folders, made.position_encoding
        )
        return result

    @lsp_method(types.EXIT)
    def lsp_exit(self, *args: Any) -> Generator[Any, Any, None]:
        """End the loop that reads. pygls would exit in its middle, and lose the status."""
        self.status = 0 if self._shutdown else 1
        self.over.set()
        yield from ()

    def _execute_handler(
        self,
        msg_id: str | int,
        handler: Callable[..., Any],
        callback: Callable[[Any], None],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        """pygls keeps what handled a notification for ever, which is every keystroke."""
        super()._execute_handler(msg_id, handler, callback, args, kwargs)
        found = self._request_futures.get(msg_id)
        if found is not None and found.done():
            del self._request_futures[msg_id]


def quiet() -> None:
    """Have the log say what is wrong in a line each, and nothing of documents: pygls logs all that
    it sends.
    """
    logging.getLogger("pygls").setLevel(logging.ERROR)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("pygls.protocol.json_rpc").addFilter(_without_traceback)


_UNREADABLE: Final = "Unable to deserialize message\n%s"


def _without_traceback(record: logging.LogRecord) -> bool:
    """Of what we answer as an error: the line says it all, pygls' or ours."""
    if record.msg == _UNREADABLE:
        return False
    if record.exc_info and isinstance(record.exc_info[1], JsonRpcException):
        record.exc_info = None
    return True
