"""Models by name, and the requests that they compute."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, TypeVar

from sc2onnx.errors import BusyError
from sc2onnx.runtime.chat.conversation import Conversation
from sc2onnx.runtime.engine.handle import Handle
from sc2onnx.runtime.engine.row import Row
from sc2onnx.runtime.engine.streams import Stream
from sc2onnx.runtime.engine.task import Task
from sc2onnx.runtime.model import Model
from sc2onnx.runtime.text.fitting import Surroundings
from sc2onnx.serve.ask import Ask, Tokens
from sc2onnx.serve.making import Gives, Made, made
from sc2onnx.serve.refusal import RefusedError
from sc2onnx.serve.settings import Settings

State = Literal["loading", "ready", "draining"]

_SMALL: Final = 1 << 16
"""Characters that are tokenized where they come in: others go to a thread, so that nobody else
waits, and so do conversations, whose templates may take their time.
"""

_TEMPLATES: Final = 2
"""Templates that are rendered or waited for in threads, which are for others too."""

MOST_WARMING: Final = 2
"""Requests under way that only warm. Editors send one every second, and
each holds a place in a step.
"""

H = TypeVar("H", bound=Handle[Any])
T = TypeVar("T")


class Service:
    """Models by name, and how many requests they have under way. For one event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.state: State = "loading"
        self._models: dict[str, Model] = {}
        self.under_way = set[Handle[Any]]()
        self._warming = set[Handle[Any]]()
        self._following = deque[Task]()
        self._going = 0
        self._templates = asyncio.Semaphore(_TEMPLATES)

    def ready(self, models: Mapping[str, Model]) -> None:
        """Serve these models, the first of them where a request names none."""
        self._models, self.state = dict(models), "ready"
        for model in models.values():
            model.start()

    @property
    def names(self) -> list[str]:
        """Of the models, and of their adapters, each of which goes as a model too."""
        adapters = [name for model in self._models.values() for name in model.adapters]
        return [*self._models, *adapters]

    def base(self, name: str) -> str | None:
        """The model whose adapter goes by a name; None for the name of a model."""
        return next((of for of, model in self._models.items() if name in model.adapters), None)

    @property
    def loaded(self) -> Mapping[str, Model]:
        """The models by name; none before they are loaded."""
        return self._models

    def model(self, name: str) -> tuple[str, Model]:
        """The model of a name, which may be that of its adapter; the only one goes by any. Raises
        :class:`RefusedError`.
        """
        if self.state != "ready":
            raise self.unready()
        if name in self._models:
            return name, self._models[name]
        if (base := self.base(name)) is not None:
            return name, self._models[base]
        if not name or len(self._models) == 1:
            return next(iter(self._models.items()))
        raise RefusedError(
            404,
            f"there is no model of that name, expected one of {', '.join(self.names)}",
            "not_found_error",
            param="model",
        )

    def unready(self) -> RefusedError:
        """What clients are told of a server that is not ready."""
        told = "Loading model" if self.state == "loading" else "the server is ending"
        return RefusedError(503, told, "unavailable_error", retry_after=5)

    async def tasks(self, ask: Ask) -> list[Task]:
        """Requests whose answers are wanted whole, under way.
        Raises :class:`RefusedError` and what the runtime raises.
        """
        model = self.model(ask.model)[1]
        found = await self._made(model, ask, "whole")
        tasks = self._begun([Task(model.engine, row, submitted=True) for row in found.rows], ask)
        self._follow(model, found.behind)
        return tasks

    async def streams(self, ask: Ask) -> list[Stream]:
        """Requests whose answers are wanted as they come."""
        model = self.model(ask.model)[1]
        found = await self._made(model, ask, "pieces")
        streams = self._begun(
            [Stream(model.engine, row, submitted=True) for row in found.rows], ask
        )
        self._follow(model, found.behind)
        return streams

    async def _made(self, model: Model, ask: Ask, gives: Gives) -> Made:
        ask = _adapted(ask, model)
        wanted, most = len(ask.prompts) * ask.samples, self.settings.waiting
        one = max(1, most // 2)  # of all places: others have some, whatever one asks for
        if wanted > one:
            told = f"the request is for {wanted} completions, expected at most {one}"
            raise RefusedError(400, told, param="n")
        if len(self.under_way) + self._going + wanted > most:
            raise RefusedError(
                429,
                "the server has as much to do as it takes: try again in a second",
                "rate_limit_error",
                retry_after=1,
            )
        self._going += wanted
        try:
            if any(isinstance(each, Conversation) for each in ask.prompts):
                return await self.templated(lambda: made(model, ask, gives, self.settings))
            if sum(map(_size, ask.prompts)) <= _SMALL and not ask.constrained:
                return made(model, ask, gives, self.settings)
            return await asyncio.to_thread(made, model, ask, gives, self.settings)
        finally:
            self._going -= wanted

    async def templated(self, work: Callable[[], T]) -> T:
        """What ``work`` gives, which renders a chat template: in a thread, few of them at a time.
        Raises what it raises, and :class:`~sc2onnx.errors.BusyError` where it waits for too long.
        """
        try:
            async with asyncio.timeout(self.settings.queue_seconds):
                await self._templates.acquire()
        except TimeoutError:
            raise BusyError("other chats wait for their templates: try again later") from None
        try:
            return await asyncio.to_thread(work)
        finally:
            self._templates.release()

    def left_out(self, ask: Ask) -> bool:
        """Whether a request that only warms is left out: enough others do."""
        return ask.warms and len(self._warming) >= MOST_WARMING

    def _begun(self, handles: list[H], ask: Ask) -> list[H]:
        self.under_way.update(handles)
        if ask.warms:
            self._warming.update(handles)
        return handles

    def _follow(self, model: Model, rows: Sequence[Row]) -> None:
        """Compute what somebody will need: of the latest requests only."""
        for row in rows:
            while len(self._following) >= MOST_WARMING:
                self._following.popleft().cancel()
            self._following.append(Task(model.engine, row, submitted=True))

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
        self.over([*self.under_way, *self._following])
        for model in self._models.values():
            await asyncio.to_thread(model.stop)


def _adapted(ask: Ask, model: Model) -> Ask:
    """The same with the adapter that is meant, by its number or by the name of the model. Raises
    :class:`RefusedError`.
    """
    names = list(model.adapters)
    if ask.lora is None:
        chosen, scale = ask.model, 1.0
    else:
        number, scale = ask.lora
        if number >= len(names):
            told = f"lora has the id {number}, expected one of the {len(names)} of /lora-adapters"
            raise RefusedError(400, told, param="lora")
        chosen = names[number]
    if chosen not in names:
        return ask
    return replace(ask, options={**ask.options, "adapter": chosen, "adapter_scale": scale})


def _size(prompt: str | Tokens | Surroundings | Conversation) -> int:
    if isinstance(prompt, Conversation):
        return prompt.size
    if not isinstance(prompt, Surroundings):
        return len(prompt)
    return (
        prompt.characters
        + len(prompt.path or "")
        + len(prompt.repo or "")
        + sum(map(len, prompt.files))
    )
