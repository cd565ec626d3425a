"""The paths of Ollama's server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sc2onnx.runtime.engine.streams import Stream
from sc2onnx.runtime.results import FinishReason, Usage
from sc2onnx.serve.ask import Answer, Ask
from sc2onnx.serve.attributing import Repeats
from sc2onnx.serve.dialects import ollama, ollama_chat
from sc2onnx.serve.dialects.messages import check_converses
from sc2onnx.serve.exchange import Exchange, guarded, merged
from sc2onnx.serve.refusal import RefusedError
from sc2onnx.serve.replies import as_json, refused, replied

_GENERATE: Final = msgspec.json.Decoder(ollama.Generate)
_CHAT: Final = msgspec.json.Decoder(ollama_chat.Chat)
_SHOW: Final = msgspec.json.Decoder(ollama.Show)
_LINES: Final = "application/x-ndjson"


class Words(Protocol):
    """How a path tells of an answer: :mod:`~sc2onnx.serve.dialects.ollama` or ``ollama_chat``."""

    def part(self, name: str, text: str) -> Answer:
        """A piece."""

    def whole(self, name: str, text: str, reason: FinishReason, used: Usage) -> Answer:
        """All of it, or the last piece."""


class Routes:
    """What they answer."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange, self._service = exchange, exchange.service

    def routes(self) -> list[Route]:
        """Its paths."""
        answers = [
            ("POST", "/api/generate", self._generate),
            ("POST", "/api/show", self._show),
            ("GET", "/api/tags", self._tags),
            ("GET", "/api/ps", self._tags),
            ("GET", "/api/version", self._version),
            ("POST", "/api/chat", self._chat),
        ]
        return [
            Route(path, guarded(answer, _refused), methods=[method])
            for method, path, answer in answers
        ]

    async def _generate(self, request: Request) -> Response:
        body = await self._exchange.body(request, _GENERATE)
        ask = ollama.ask(body, self._exchange.settings)
        if ask is None:
            return replied(ollama.loaded(self._service.model(ollama.untagged(body.model))[0]))
        return await self._answered(request, ask, ollama)

    async def _chat(self, request: Request) -> Response:
        body = await self._exchange.body(request, _CHAT)
        name, model = self._service.model(ollama.untagged(body.model))
        check_converses(model.chats.templates, "/api/generate")
        ask = ollama_chat.ask(body, self._exchange.settings)
        if ask is None:
            return replied(ollama_chat.loaded(name))
        return await self._answered(request, ask, ollama_chat)

    async def _answered(self, request: Request, ask: Ask, words: Words) -> Response:
        """What is asked for, in the words of a path."""
        name, repeats = self._service.model(ask.model)[0], self._exchange.repeats(ask)
        if not ask.stream:
            done = (await self._exchange.completions(request, ask))[0]
            told = words.whole(name, done.text, done.finish_reason, done.usage)
            return replied({**told, **await repeats.of(0, done.text)})
        streams = await self._exchange.streams(request, ask)
        return self._exchange.streamed(
            streams,
            self._lines(streams, name, words, repeats),
            lambda refusal: _line(ollama.error(refusal)),
            _LINES,
        )

    async def _lines(
        self, streams: Sequence[Stream], name: str, words: Words, repeats: Repeats
    ) -> AsyncIterator[bytes]:
        async for index, piece in merged(streams):
            if piece.text:
                yield _line(words.part(name, piece.text))
            if piece.finish_reason is not None:  # some clients read no text there
                told = words.whole(name, "", piece.finish_reason, streams[index].usage)
                yield _line({**told, **await repeats.of(index, streams[index].text)})

    async def _show(self, request: Request) -> Response:
        name, model = self._service.model(ollama.name_of(await self._exchange.body(request, _SHOW)))
        return replied(ollama.show(name, model.manifest))

    async def _tags(self, request: Request) -> Response:
        return replied(
            ollama.tags(
                [(name, self._service.model(name)[1].manifest) for name in self._service.names]
            )
        )

    async def _version(self, request: Request) -> Response:
        return replied({"version": ollama.VERSION})


def _line(answer: object) -> bytes:
    return as_json(answer) + b"\n"


def _refused(refusal: RefusedError) -> Response:
    return refused(refusal, ollama.error(refusal))
