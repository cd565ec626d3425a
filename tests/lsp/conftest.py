"""An editor of the tests: the command in a process of its own, and pytest-lsp's client."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from lsprotocol import types
from pytest_lsp import LanguageClient, client_capabilities, make_test_lsp_client

import sc2onnx
from tests.serve.conftest import Served, serving

ROOT: Final = "file:///work%20space"
AUTOMATIC: Final = types.InlineCompletionTriggerKind.Automatic
INVOKED: Final = types.InlineCompletionTriggerKind.Invoked


class Editor:
    """A client of the command ``sc2onnx lsp``."""

    def __init__(self, client: LanguageClient) -> None:
        self.client = client
        self.versions: dict[str, int] = {}

    async def initialize(
        self, options: object = None, *, progress: bool = True
    ) -> types.InitializeResult:
        """Shake hands."""
        can = client_capabilities("visual-studio-code")
        assert can.window is not None
        can.window.work_done_progress = progress
        folders = [types.WorkspaceFolder(ROOT, "work space")]
        asked = types.InitializeParams(
            can, workspace_folders=folders, initialization_options=options
        )
        self.client.capabilities = can  # which pytest-lsp checks what it is sent against
        result = await self.client.initialize_async(asked)
        self.client.initialized(types.InitializedParams())
        return result

    def open(self, path: str, text: str) -> str:
        """Open a document, and give its URI."""
        uri = f"{ROOT}/{path}"
        self.versions[uri] = 1
        self.client.text_document_did_open(
            types.DidOpenTextDocumentParams(types.TextDocumentItem(uri, "python", 1, text))
        )
        return uri

    def change(self, uri: str, *changes: types.TextDocumentContentChangeEvent) -> None:
        """Edit a document."""
        self.versions[uri] += 1
        document = types.VersionedTextDocumentIdentifier(self.versions[uri], uri)
        self.client.text_document_did_change(types.DidChangeTextDocumentParams(document, changes))

    def close(self, uri: str) -> None:
        """Close a document."""
        self.client.text_document_did_close(
            types.DidCloseTextDocumentParams(types.TextDocumentIdentifier(uri))
        )

    async def items(
        self,
        uri: str,
        line: int,
        character: int,
        *,
        trigger: types.InlineCompletionTriggerKind = INVOKED,
        selected: types.SelectedCompletionInfo | None = None,
        number: str | None = None,
    ) -> Sequence[types.InlineCompletionItem]:
        """What is completed at a position. ``number``: the request's, to cancel it by."""
        asked = types.InlineCompletionParams(
            types.InlineCompletionContext(trigger, selected),
            types.TextDocumentIdentifier(uri),
            types.Position(line, character),
        )
        method = types.TEXT_DOCUMENT_INLINE_COMPLETION
        result = await self.client.protocol.send_request_async(method, asked, number)
        assert isinstance(result, types.InlineCompletionList)
        return result.items

    async def ready(self, within: float = 60.0) -> None:
        """Wait until the model is loaded."""
        await until(
            lambda: any("ready" in each.message for each in self.client.log_messages), within
        )

    async def end(self) -> int:
        """End the server as editors do, and give its exit status."""
        await self.client.shutdown_async(None)
        self.client.exit(None)
        return await self.status()

    async def status(self) -> int:
        """The server's exit status."""
        process = self.client._server
        assert process is not None
        return await asyncio.wait_for(process.wait(), 30)

    @property
    def told(self) -> list[str]:
        """What was shown to the person."""
        return [each.message for each in self.client.messages]


async def until(met: Callable[[], bool], within: float = 10.0) -> None:
    """Wait for something to be so."""
    async with asyncio.timeout(within):
        while not met():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def editor(*arguments: object, env: dict[str, str] | None = None) -> AsyncIterator[Editor]:
    """A client of a server that is started with these arguments, and is no more afterwards."""
    client = make_test_lsp_client()
    command = [sys.executable, "-m", "sc2onnx", "lsp", *map(str, arguments)]
    await client.start_io(*command, env={**os.environ, **(env or {})})
    try:
        yield Editor(client)
    finally:
        assert client._server is not None
        if client._server.returncode is None:
            client._server.kill()
        await client.stop()


@pytest.fixture(scope="module")
def served(bundle: Path) -> Iterator[Served]:
    with serving(sc2onnx.load(bundle)) as running:
        yield running


def insert(line: int, character: int, text: str) -> types.TextDocumentContentChangePartial:
    """An edit that inserts a text."""
    place = types.Position(line, character)
    return types.TextDocumentContentChangePartial(range=types.Range(place, place), text=text)
