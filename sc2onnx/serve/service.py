"""Models by name, and the requests that they compute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, TypeVar

from sc2onnx.runtime.engine.handle import Handle, Stream, Task
from sc2onnx.runtime.engine.row import Row
from sc2onnx.runtime.infill_options import InfillOptions
from sc2onnx.runtime.model import Model
from sc2onnx.runtime.options import GenerationOptions
from sc2onnx.runtime.request import Prompt
from sc2onnx.runtime.text.fitting import Surroundings
from sc2onnx.serve.ask import WARMS, Ask, Tokens
from sc2onnx.serve.refusal import RefusedError
from sc2onnx.serve.settings import Settings

State = Literal["loading", "ready", "draining"]

_SMALL: Final = 1 << 16
"""Characters that are tokenized where they come in: others go to a thread, so that nobody else waits."""

MOST_WARMING: Final = 2
"""Requests under way that only warm. Editors send one every second, and each holds a place in a step."""

H = TypeVar("H", bound=Handle[Any])


class Service:
    """Models by name, and how many requests they have under way. For one event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.state: State = "loading"
        self._models: dict[str, Model] = {}
        self.under_way = set[Handle[Any]]()
        self._warming = set[Handle[Any]]()
        self._going = 0

    def ready(self, models: Mapping[str, Model]) -> None:
        """Serve these models, the first of them where a request names none."""
        self._models, self.state = dict(models), "ready"
        for model in models.values():
            model.start()

    @property
    def names(self) -> list[str]:
        """Of the models."""
        return list(self._models)

    def model(self, name: str) -> tuple[str, Model]:
        """The model of a name; the only one goes by any. Raises :class:`RefusedError`."""
        if self.state != "ready":
            raise self.unready()
        if name in self._models:
            return name, self._models[name]
        if not name or len(self._models) == 1:
            return next(iter(self._models.items()))
        raise RefusedError(404, f"there is no model of that name, expected one of {', '.join(self._models)}", "not_found_error", param="model")

    def unready(self) -> RefusedError:
        """What clients are told of a server that is not ready."""
        told = "Loading model" if self.state == "loading" else "the server is ending"
        return RefusedError(503, told, "unavailable_error", retry_after=5)

    async def tasks(self, ask: Ask) -> list[Task]:
        """Requests whose answers are wanted whole, under way. Raises :class:`RefusedError` and what the runtime raises."""
        model = self.model(ask.model)[1]
        rows = await self._rows(model, ask, "whole")
        return self._begun([Task(model.engine, row, submitted=True) for row in rows], ask)

    async def streams(self, ask: Ask) -> list[Stream]:
        """Requests whose answers are wanted as they come."""
        model = self.model(ask.model)[1]
        rows = await self._rows(model, ask, "pieces")
        return self._begun([Stream(model.engine, row, submitted=True) for row in rows], ask)

    async def _rows(self, model: Model, ask: Ask, gives: Literal["whole", "pieces"]) -> list[Row]:
        wanted = len(ask.prompts) * ask.samples
        if len(self.under_way) + self._going + wanted > self.settings.waiting:
            raise RefusedError(429, "the server has as much to do as it takes: try again in a second", "rate_limit_error", retry_after=1)
        self._going += wanted
        try:
            if sum(map(_size, ask.prompts)) <= _SMALL:
                return self._made(model, ask, gives)
            return await asyncio.to_thread(self._made, model, ask, gives)
        finally:
            self._going -= wanted

    def _made(self, model: Model, ask: Ask, gives: Literal["whole", "pieces"]) -> list[Row]:
        options = GenerationOptions.of(ask.options)
        prompts = [self._prompt(model, each, ask, options) for each in ask.prompts]
        rows = model.requests.whole_rows(prompts, ask.samples, options)
        for row in rows:
            row.gives = gives
            row.terms = replace(
                row.terms,
                priority=WARMS if ask.warms else row.terms.priority,
                enters=time.monotonic() + self.settings.queue_seconds,
                replaces=ask.replaces if len(rows) == 1 else None,
            )
        return rows

    def left_out(self, ask: Ask) -> bool:
        """Whether a request that only warms is not worth its while: enough others do."""
        return ask.warms and len(self._warming) >= MOST_WARMING

    def _prompt(self, model: Model, given: str | Tokens | Surroundings, ask: Ask, options: GenerationOptions) -> Prompt:
        if isinstance(given, str):
            return model.requests.prompt(given, options)
        if isinstance(given, Surroundings):
            around = {"path": given.path, "repo": given.repo, "files": given.files}
            how = {"order": ask.order, "heal": self.settings.heal}
            code = InfillOptions.of({**ask.options, **around, **how})
            return model.requests.infill_prompt(given.prefix, given.suffix, code)
        return Prompt(list(given))

    def _begun(self, handles: list[H], ask: Ask) -> list[H]:
        self.under_way.update(handles)
        if ask.warms:
            self._warming.update(handles)
        return handles

    def over(self, handles: Sequence[Handle[Any]]) -> None:
        """Whoever asked has an answer, or is gone: what still runs is stopped."""
        for handle in handles:
            handle.cancel()
            self.under_way.discard(handle)
            self._warming.discard(handle)

    async def drain(self) -> None:
        """Take no more requests, and give those under way time to end."""
        self.state = "draining"
        ends = asyncio.get_running_loop().time() + self.settings.drain_seconds
        while self.under_way and asyncio.get_running_loop().time() < ends:
            await asyncio.sleep(0.02)
        self.over(list(self.under_way))
        for model in self._models.values():
            await asyncio.to_thread(model.stop)


def _size(prompt: str | Tokens | Surroundings) -> int:
    return prompt.characters if isinstance(prompt, Surroundings) else len(prompt)
