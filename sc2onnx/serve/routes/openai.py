"""The paths of OpenAI's completions; Tabby's have the same one."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sc2onnx.runtime.chat.conversation import Conversation
from sc2onnx.runtime.engine.streams import Stream
from sc2onnx.runtime.text.codec import Codec
from sc2onnx.runtime.text.fitting import Surroundings
from sc2onnx.serve.ask import Answer, Ask, Tokens
from sc2onnx.serve.attributing import Repeats
from sc2onnx.serve.dialects import openai, tabby
from sc2onnx.serve.exchange import Exchange, decoded, guarded, merged
from sc2onnx.serve.replies import error, event, replied

_BODY: Final = msgspec.json.Decoder(openai.Body)
_SEGMENTS: Final = msgspec.json.Decoder(tabby.Body)


class _Answering(NamedTuple):
    """What all events of a stream have in common: their number, the model's name, its tokenizer,
    and what says which files the answer repeats.
    """

    number: str
    name: str
    codec: Codec
    repeats: Repeats


class Routes:
    """What they answer."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange, self._since = exchange, int(time.time())

    def routes(self) -> list[Route]:
        """Its paths."""
        answers = [
            ("POST", "completions", self._completions),
            ("GET", "models", self._models),
        ]
        return [
            Route(f"{base}/{path}", guarded(answer), methods=[method])
            for base in ("/v1", "")
            for method, path, answer in answers
        ]

    async def _models(self, request: Request) -> Response:
        service = self._exchange.service
        context = service.model("")[1].manifest.model.context_length
        bases = {name: service.base(name) for name in service.names}
        return replied(openai.models(bases, self._since, context))

    async def _completions(self, request: Request) -> Response:
        raw = await self._exchange.raw(request)
        if tabby.is_meant(raw):
            return await self._tabby(request, decoded(raw, _SEGMENTS))
        body = decoded(raw, _BODY)
        ask = openai.ask(body, self._exchange.settings)
        (name, model), number = self._exchange.service.model(ask.model), f"cmpl-{uuid.uuid4().hex}"
        repeats = self._exchange.repeats(ask)
        echoes = [
            _echo(prompt, model.codec) if body.echo else ""
            for prompt in ask.prompts
            for _ in range(ask.samples)
        ]
        if ask.stream:
            streams = await self._exchange.streams(request, ask)
            answering = _Answering(number, name, model.codec, repeats)
            events = self._events(body, ask, streams, echoes, answering)
            return self._exchange.streamed(streams, events, lambda refusal: event(error(refusal)))
        done = await self._exchange.completions(request, ask)
        empty = body.writes_nothing
        pairs = zip(done, echoes, strict=True)

        def chosen() -> list[Answer]:
            return [
                openai.choice(index, *both, model.codec, empty=empty)
                for index, both in enumerate(pairs)
            ]

        choices = chosen() if body.logprobs is None else await asyncio.to_thread(chosen)
        choices = [
            {**choice, **await repeats.of(index, each.text, len(echo))}
            for index, (choice, each, echo) in enumerate(zip(choices, done, echoes, strict=True))
        ]
        prompts = [each.usage for each in done[:: ask.samples]]
        used = openai.usage(prompts, [each.usage for each in done], empty=empty)
        return replied(openai.completion(number, name, choices, used))

    async def _tabby(self, request: Request, body: tabby.Body) -> Response:
        """The agent's requests for completions come to the same path."""
        ask = tabby.ask(body, self._exchange.settings)
        repeats = self._exchange.repeats(ask)
        done = await self._exchange.completions(request, ask)
        marks = [await repeats.of(index, each.text) for index, each in enumerate(done)]
        return replied(tabby.answer(f"cmpl-{uuid.uuid4().hex}", body, done, marks))

    async def _events(
        self,
        body: openai.Body,
        ask: Ask,
        streams: Sequence[Stream],
        echoes: list[str],
        answering: _Answering,
    ) -> AsyncIterator[bytes]:
        (number, name, codec, repeats), written = answering, [0] * len(streams)
        async for index, piece in merged(streams):
            echo, echoes[index] = echoes[index], ""
            choice = openai.piece_choice(
                index, piece, echo, codec, written[index], empty=body.writes_nothing
            )
            written[index] += len(echo) + len(piece.text)
            if piece.finish_reason is not None:
                text = streams[index].text
                repeated = await repeats.of(index, text, written[index] - len(text))
                choice = {**choice, **repeated}
            yield event(openai.completion(number, name, [choice], None))
        if body.usage_at_end:
            used = openai.usage(
                [each.usage for each in streams[:: ask.samples]],
                [each.usage for each in streams],
                empty=body.writes_nothing,
            )
            yield event(openai.completion(number, name, [], used))
        yield openai.DONE


def _echo(prompt: str | Tokens | Surroundings | Conversation, codec: Codec) -> str:
    """A prompt as text."""
    if isinstance(prompt, Surroundings):
        return prompt.prefix
    if isinstance(prompt, str):
        return prompt
    assert not isinstance(prompt, Conversation), "completions have none"
    return b"".join(map(codec.token_bytes, prompt)).decode("utf-8", errors="replace")
