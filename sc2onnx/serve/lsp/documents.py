"""The documents that an editor has open, as the code around a cursor."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import copy
from typing import Final
from urllib.parse import unquote

from lsprotocol.types import Position, SelectedCompletionInfo
from pygls.workspace import TextDocument, Workspace

from sc2onnx.runtime.text.fitting import Surroundings

_MOST_CHARACTERS: Final = 200_000
"""Of other documents in a prompt: more than contexts hold."""


class Documents:
    """Which documents are open, and which of them was edited when.

    Only what the editor opened is ever looked at: nothing is read from disk.
    """

    def __init__(self) -> None:
        self._order: dict[str, str] = {}  # names -> URIs, the latest edited one last

    def touched(self, uri: str) -> None:
        """A document was opened or edited."""
        self._order.pop(unquote(uri), None)
        self._order[unquote(uri)] = uri

    def closed(self, uri: str) -> None:
        """A document was closed."""
        self._order.pop(unquote(uri), None)

    @property
    def latest(self) -> str | None:
        """The one that was opened or edited last; None: none is open."""
        return next(reversed(self._order.values()), None)

    def around(
        self,
        workspace: Workspace,
        uri: str,
        position: Position | None = None,
        selected: SelectedCompletionInfo | None = None,
        *,
        neighbours: int,
    ) -> Surroundings | None:
        """The code around a position, by default the end, with as many other documents, the one
        that was edited last nearest; None: the document is not open.

        ``selected``: its text stands in the place of its range, and what follows it is asked for.
        """
        document = workspace.text_documents.get(unquote(uri))
        if document is None:
            return None
        source, inserted = document.source, ""
        start = end = len(source) if position is None else _offset(document, position)
        if selected is not None:
            bounds = selected.range
            start, end = _offset(document, bounds.start), _offset(document, bounds.end)
            inserted = selected.text
        files = dict(reversed(list(self._others(workspace, uri, neighbours))))
        before, after = _plain(source[:start] + inserted), _plain(source[end:])
        return Surroundings(before, after, relative_path(workspace, uri), files=files)

    def _others(self, workspace: Workspace, uri: str, most: int) -> Iterator[tuple[str, str]]:
        """Other documents by their path, the latest edited first, so many and so much of them."""
        room, paths = _MOST_CHARACTERS, {relative_path(workspace, uri)}
        for name, other in reversed(self._order.items()):
            document, path = workspace.text_documents.get(name), relative_path(workspace, other)
            if document is None or path in paths or not document.source.strip():
                continue
            if not (most and room):
                return
            text = _plain(document.source)[-room:]
            most, room = most - 1, room - len(text)
            paths.add(path)
            yield path, text


def relative_path(workspace: Workspace, uri: str) -> str:
    """A document's path from its workspace folder on, which the folder's name precedes where there
    are several; of one outside, its name alone, so that no prompt tells where it lies.
    """
    name = unquote(uri)
    folders = {key.rstrip("/"): folder.name for key, folder in workspace.folders.items()}
    if not folders and workspace.root_uri is not None:
        folders = {unquote(workspace.root_uri).rstrip("/"): ""}
    inside = [folder for folder in folders if name.startswith(f"{folder}/")]
    if not inside:
        return re.split(r"[/\\:]", name)[-1]
    folder = max(inside, key=len)
    path = name[len(folder) + 1 :]
    return f"{folders[folder]}/{path}" if len(folders) > 1 else path


def _offset(document: TextDocument, position: Position) -> int:
    """Characters before a position in the client's units. pygls writes into what it is given."""
    return min(document.offset_at_position(copy(position)), len(document.source))


def _plain(text: str) -> str:
    r"""A text as the model knows texts: lines end with ``\n``, and halves of pairs are marks."""
    return text.replace("\r\n", "\n").encode("utf-8", "replace").decode("utf-8")
