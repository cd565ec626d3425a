"""The code around a cursor, and what the protocol's state keeps."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from lsprotocol import types

from sc2onnx.runtime.text.fitting import Surroundings
from sc2onnx.serve.lsp.completer import Cursor
from sc2onnx.serve.lsp.documents import Documents, relative_path
from sc2onnx.serve.lsp.features import language_server
from sc2onnx.serve.lsp.options import Options
from sc2onnx.serve.lsp.protocol import LineWorkspace
from sc2onnx.serve.lsp.server import Server
from sc2onnx.serve.lsp.stdio import Output
from tests.lsp.conftest import insert


def workspace(*folders: str, root: str | None = None) -> LineWorkspace:
    named = [
        types.WorkspaceFolder(folder, folder.rstrip("/").rpartition("/")[2]) for folder in folders
    ]
    return LineWorkspace(root, workspace_folders=named)


@pytest.mark.parametrize(
    ("folders", "root", "uri", "path"),
    [
        (["file:///w"], None, "file:///w/a%20b/c.py", "a b/c.py"),
        (["file:///w/"], None, "file:///w/c.py", "c.py"),
        (["file:///w"], None, "file:///wide/c.py", "c.py"),
        (["file:///w", "file:///w/in"], None, "file:///w/in/c.py", "in/c.py"),
        (["file:///w", "file:///v"], None, "file:///w/d/c.py", "w/d/c.py"),
        (["file:///c%3A/w"], None, "file:///c:/w/d/c.py", "d/c.py"),
        ([], "file:///home/me", "file:///home/me/d/c.py", "d/c.py"),
        ([], None, "file:///home/me/d/c.py", "c.py"),
        ([], None, "untitled:Untitled-1", "Untitled-1"),
    ],
)
def test_paths_begin_at_the_folder(
    folders: list[str], root: str | None, uri: str, path: str
) -> None:
    made = workspace(*folders)
    if root is not None:
        made = workspace(root=root)
    assert relative_path(made, uri) == path


def opened(*texts: str) -> tuple[Documents, LineWorkspace]:
    documents, made = Documents(), workspace("file:///w")
    for number, text in enumerate(texts):
        item = types.TextDocumentItem(f"file:///w/{number}.py", "python", 1, text)
        made.put_text_document(item)
        documents.touched(item.uri)
    return documents, made


def around(documents: Documents, made: LineWorkspace, line: int, character: int) -> tuple[str, str]:
    code = documents.around(made, "file:///w/0.py", types.Position(line, character), neighbours=0)
    assert code is not None
    return code.prefix, code.suffix


@pytest.mark.parametrize(
    ("text", "line", "character", "before"),
    [
        ("ab\r\ncd\r\n", 1, 1, "ab\nc"),
        ("ab\r\ncd\r\n", 0, 2, "ab"),
        ("a\x0cb\ncd", 1, 1, "a\x0cb\nc"),
        ("a\u2028b\ncd", 1, 1, "a\u2028b\nc"),
        ("😋😋\n", 0, 2, "😋"),
        ("ab\n", 1, 0, "ab\n"),
        ("ab\n", 9, 9, "ab\n"),
        ("", 0, 0, ""),
        ("a\ud800b", 0, 3, "a?b"),
    ],
)
def test_positions(text: str, line: int, character: int, before: str) -> None:
    found = around(*opened(text), line, character)
    assert found[0] == before
    assert "".join(found) == text.replace("\r\n", "\n").replace("\ud800", "?")


def test_neighbours_are_bounded_and_the_latest_edited_one_comes_last() -> None:
    documents, made = opened("main", "one", "two" * 100_000, "", "three")
    documents.touched("file:///w/1.py")

    def files(most: int) -> Surroundings:
        code = documents.around(made, "file:///w/0.py", neighbours=most)
        assert code is not None
        return code

    assert list(files(8).files) == ["2.py", "4.py", "1.py"]
    assert sum(map(len, files(8).files.values())) == 200_000
    assert files(2).files == {"4.py": "three", "1.py": "one"}
    assert files(0).files == {}
    documents.closed("file:///w/1.py")
    made.remove_text_document("file:///w/1.py")
    assert list(files(1).files) == ["4.py"]


def test_a_document_that_is_not_open_is_not_read_from_disk(tmp_path: os.PathLike[str]) -> None:
    file = os.path.join(tmp_path, "secret.py")
    with open(file, "w", encoding="utf-8") as out:
        out.write("SECRET = 1\n")
    documents, made = opened("main")
    assert documents.around(made, f"file://{file}", neighbours=8) is None
    assert made.get_text_document(f"file://{file}").source == ""


class Idle:
    """A completer that has nothing to say."""

    loading = False

    async def open(self, tell: Callable[[str], None]) -> None:
        tell("nothing")

    async def complete(self, cursor: Cursor) -> str:
        return cursor.code.prefix

    async def warm(self, cursor: Cursor) -> None: ...

    async def forget(self) -> None: ...

    async def close(self) -> None: ...


ITEM = types.TextDocumentItem("file:///w/0.py", "python", 1, "")


@contextmanager
def initialized() -> Iterator[tuple[Server, Callable[[Any], None]]]:
    """A server that is initialized, and what it hears messages with."""
    with open(os.devnull, "wb") as nowhere:
        server = language_server(Idle(), Options())
        server.protocol.set_writer(Output(nowhere.fileno()))
        hear: Callable[[Any], None] = server.protocol.handle_message
        hear(types.InitializeRequest(1, types.InitializeParams(types.ClientCapabilities())))
        hear(types.DidOpenTextDocumentNotification(types.DidOpenTextDocumentParams(ITEM)))
        yield server, hear


def test_keystrokes_leave_nothing_behind() -> None:
    async def typed() -> None:
        with initialized() as (server, hear):
            for version in range(2, 100):
                document = types.VersionedTextDocumentIdentifier(version, ITEM.uri)
                change = types.DidChangeTextDocumentParams(document, [insert(0, 0, "x")])
                hear(types.DidChangeTextDocumentNotification(change))
                await asyncio.sleep(0)
            assert len(server.workspace.text_documents[ITEM.uri].source) == 98
            assert server.protocol._request_futures == {}
            await server.close()

    asyncio.run(typed())


def test_a_document_may_be_closed_before_it_is_warmed() -> None:
    async def closed() -> None:
        with initialized() as (server, hear):
            named = types.DidCloseTextDocumentParams(types.TextDocumentIdentifier(ITEM.uri))
            hear(types.DidCloseTextDocumentNotification(named))
            assert server._warming is not None
            await server._warming
            await server.close()

    asyncio.run(closed())
