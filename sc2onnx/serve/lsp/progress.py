"""How far something is, as an editor shows it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import uuid4

from lsprotocol import types
from pygls.exceptions import JsonRpcException

if TYPE_CHECKING:
    from pygls.lsp.server import LanguageServer


class Progress:
    """Work that an editor shows, where it can, from its creation until :meth:`end`."""

    def __init__(self, server: LanguageServer, title: str) -> None:
        self._server, self._title = server, title
        self._stages = asyncio.Queue[str | None]()
        window = server.client_capabilities.window
        shows = window is not None and bool(window.work_done_progress)
        self._showing = asyncio.create_task(self._show()) if shows else None

    def tell(self, stage: str) -> None:
        """Say how far it is."""
        self._stages.put_nowait(stage)

    def end(self) -> None:
        """It is over."""
        self._stages.put_nowait(None)

    async def _show(self) -> None:
        """An editor is asked first whether it shows it, and the work goes on meanwhile."""
        progress, token = self._server.work_done_progress, str(uuid4())
        try:
            await progress.create_async(token)
        except JsonRpcException:  # it does not
            return
        progress.begin(token, types.WorkDoneProgressBegin(self._title))
        while (stage := await self._stages.get()) is not None:
            progress.report(token, types.WorkDoneProgressReport(message=stage))
        progress.end(token, types.WorkDoneProgressEnd())
