"""The language server's state: the editor's documents, who completes, and what is under way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final
from urllib.parse import unquote

from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pygls.lsp.server import LanguageServer

from sc2onnx import __version__
from sc2onnx.attribution.attribution import Attribution
from sc2onnx.errors import Sc2onnxError
from sc2onnx.messages import printable
from sc2onnx.serve.lsp.completer import Completer, Cursor
from sc2onnx.serve.lsp.documents import Documents
from sc2onnx.serve.lsp.options import Options
from sc2onnx.serve.lsp.progress import Progress
from sc2onnx.serve.lsp.protocol import Protocol
from sc2onnx.serve.refusal import RefusedError, refusal_of

Trigger = types.InlineCompletionTriggerKind

LOG: Final = logging.getLogger("sc2onnx.serve")

_OF_THE_REQUEST: Final = frozenset({400, 413, 500})
"""Statuses of a request that failed. Others say that none can succeed for now."""

_LINE_SECONDS: Final = 1.0
"""Of writing, after which a completion that nobody asked for ends with its line."""


class Server(LanguageServer):
    """A language server over a completer. For one editor."""

    protocol: Protocol

    def __init__(
        self, completer: Completer, options: Options, attribution: Attribution | None = None
    ) -> None:
        super().__init__("sc2onnx", __version__, protocol_cls=Protocol)
        self.completer, self.options, self._attribution = completer, options, attribution
        self.documents = Documents()
        self._going: dict[str, asyncio.Task[str]] = {}  # by document
        self._background = set[asyncio.Task[None]]()
        self._warming: asyncio.Task[None] | None = None
        self.wrong: list[str] = []
        """What is wrong with the editor's options."""
        self._told = ""

    def cursor(self, uri: str, params: types.InlineCompletionParams | None = None) -> Cursor | None:
        """Where and how to complete in a document, at its end by default; None: there is no code.

        Raises :class:`~sc2onnx.serve.refusal.RefusedError` for a document that is not open.
        """
        options, context = self.options, None if params is None else params.context
        code = self.documents.around(
            self.workspace,
            uri,
            None if params is None else params.position,
            None if context is None else context.selected_completion_info,
            neighbours=options.neighbours,
        )
        if code is None:
            raise RefusedError(400, f"{uri} is not open, expected didOpen before a completion")
        if not code.characters:
            return None
        follows = code.suffix.partition("\n")[0].strip()
        by_itself = context is not None and context.trigger_kind == Trigger.Automatic
        mode = ("line" if follows else "block") if options.mode == "auto" else options.mode
        return Cursor(
            document=unquote(uri),
            code=code,
            max_tokens=options.max_tokens,
            timeout=options.timeout,
            ends=None if mode == "free" else mode,
            line_seconds=_LINE_SECONDS if by_itself else None,
        )

    async def complete(self, cursor: Cursor) -> str:
        """What is to be inserted at a cursor; nothing where a newer request takes this one's place,
        or where nobody can complete for now, which is told of once.

        Raises :class:`~pygls.exceptions.JsonRpcException` for a request that failed.
        """
        self._stop(cursor.document)
        task = asyncio.create_task(self.completer.complete(cursor))
        self._going[cursor.document] = task
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
            if self._going.get(cursor.document) is task:
                del self._going[cursor.document]
        return "" if task.cancelled() else self._outcome(task)

    def _outcome(self, task: asyncio.Task[str]) -> str:
        error = task.exception()
        if error is None:
            self._told = ""
            return task.result()
        refusal = refusal_of(error)
        if refusal.status not in _OF_THE_REQUEST:
            self.tell(refusal.message)
            return ""
        LOG.error("a completion failed: %s", refusal.message, exc_info=_unknown(error))
        raise failed(refusal)

    def stop(self, uri: str) -> None:
        """End what is under way for a document."""
        self._stop(unquote(uri))

    def _stop(self, document: str) -> None:
        if (task := self._going.pop(document, None)) is not None:
            task.cancel()

    def tell(self, message: str) -> None:
        """Have the editor show that something does not work, once until it works again."""
        if message != self._told:
            self._told = message
            kind, shown = types.MessageType.Warning, f"sc2onnx: {printable(message)}"
            self.window_show_message(types.ShowMessageParams(kind, shown))

    def note(self, message: str) -> None:
        """Write into the editor's log."""
        self.window_log_message(types.LogMessageParams(types.MessageType.Info, printable(message)))

    async def attribute(self, text: str, cursor: Cursor) -> None:
        """Write into the editor's log which files a completion repeats, if it does."""
        if self._attribution is None:
            return
        for match in await asyncio.to_thread(self._attribution.of, text, cursor.code.texts):
            self.note(f"of a completion in {cursor.document}, {match.told}")

    async def open(self) -> None:
        """Have the completer get ready, and warm what is open by then."""
        progress = Progress(self, "sc2onnx: getting ready")
        try:
            await self.completer.open(progress.tell)
        except RefusedError as error:
            self.tell(error.message)
            return
        finally:
            progress.end()
        self.note("ready")
        if (latest := self.documents.latest) is not None:
            self.warm_only(latest)

    async def warm(self, uri: str) -> None:
        """Compute the prompt of a document, as if the cursor were at its end."""
        if self.completer.loading:
            return
        try:
            if (cursor := self.cursor(uri)) is not None:
                await self.completer.warm(cursor)
        except Exception as error:
            refusal = refusal_of(error)
            if refusal.status not in _OF_THE_REQUEST:
                self.tell(refusal.message)
            else:
                LOG.warning("a document was not computed ahead: %s", refusal.message)

    def warm_only(self, uri: str) -> None:
        """Warm a document, and no other one: an editor may open many at once."""
        if self._warming is not None:
            self._warming.cancel()
        self._warming = self.begin(self.warm(uri))

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something that nobody waits for."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def close(self) -> None:
        """End all work, and the completer."""
        tasks = [*self._background, *self._going.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.completer.close()


def _unknown(error: BaseException) -> BaseException | None:
    """An error that is none of ours, whose traceback somebody has to see."""
    return None if isinstance(error, (RefusedError, Sc2onnxError)) else error


def failed(refusal: RefusedError) -> JsonRpcException:
    """A request that failed, as the protocol has it: a line."""
    return JsonRpcException(printable(refusal.message), types.LSPErrorCodes.RequestFailed)
