"""Completions by a model in this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from sc2onnx.errors import Sc2onnxError
from sc2onnx.runtime.model import Model
from sc2onnx.runtime.options import GenerationKeywords
from sc2onnx.serve.ask import Ask
from sc2onnx.serve.lsp.completer import PROMPT_SECONDS, Cursor
from sc2onnx.serve.refusal import RefusedError, refusal_of
from sc2onnx.serve.service import Service
from sc2onnx.serve.settings import Settings
from sc2onnx.serve.threads import in_daemon

LOG: Final = logging.getLogger("sc2onnx.serve")

_PATIENCE: Final = 100
"""Looks at whether cancelled requests have left the engine, 10 ms apart."""


class Local:
    """A :class:`~sc2onnx.serve.lsp.completer.Completer` over a model that it loads.

    It asks by the server's :class:`~sc2onnx.serve.service.Service`, which tokenizes long texts
    where nobody waits for that, knows what is under way, and ends in order.
    """

    def __init__(self, load: Callable[[], Model]) -> None:
        """``load``: gives the model; it runs in a thread of its own."""
        self._load = load
        self._service = Service(Settings())
        self._failed: RefusedError | None = None

    @property
    def loading(self) -> bool:
        """Whether the model is not there yet, and may come."""
        return self._service.state == "loading" and self._failed is None

    async def open(self, tell: Callable[[str], None]) -> None:
        """Load the model, its tokenizer, and start its thread. Raises
        :class:`~sc2onnx.serve.refusal.RefusedError`, as :meth:`complete` does from then on.
        """
        try:
            tell("loading the model")
            model = await in_daemon(self._load)
            tell("opening its tokenizer")
            await in_daemon(lambda: model.codec)
        except Exception as error:
            if not isinstance(error, Sc2onnxError):  # whose message says it all
                LOG.exception("the model could not be loaded")
            self._failed = RefusedError(503, refusal_of(error).message, "unavailable_error")
            raise self._failed from error
        if self.loading:  # it may be closed by now
            self._service.ready({"model": model})

    async def complete(self, cursor: Cursor) -> str:
        """What is to be inserted at the cursor."""
        return await self._text(_ask(cursor))

    async def warm(self, cursor: Cursor) -> None:
        """Compute the prompt of a cursor, behind every completion."""
        await self._text(_ask(cursor, warms=True))

    async def _text(self, ask: Ask) -> str:
        if self._failed is not None:
            raise self._failed
        [task] = await self._service.tasks(ask)
        try:
            done = await task
        finally:
            self._service.over([task])
        return "" if done.finish_reason == "cancelled" else done.text

    async def forget(self) -> None:
        """Free the caches and texts that completions left, once cancelled ones are over."""
        if self._service.state != "ready":
            return
        model = self._service.model("")[1]
        for _ in range(_PATIENCE):
            if model.engine.idle:
                break
            await asyncio.sleep(0.01)
        await in_daemon(model.forget)

    async def close(self) -> None:
        """End what runs, and the model's thread after its step."""
        self._service.over(list(self._service.under_way))
        await self._service.drain()


def _ask(cursor: Cursor, *, warms: bool = False) -> Ask:
    """What a cursor asks of a model: greedily, so that the completion stays the same while somebody
    types what it says.
    """
    options = GenerationKeywords(
        max_new_tokens=1 if warms else cursor.max_tokens,
        temperature=0.0,
        ends=cursor.ends,
        line_seconds=cursor.line_seconds,
        timeout=cursor.timeout,
    )
    return Ask(
        (cursor.code,),
        options,
        warms=warms,
        replaces=cursor.document,
        prompt_seconds=None if warms else PROMPT_SECONDS,
    )
