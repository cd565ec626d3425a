"""The path of OpenAI's chats."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sc2onnx.runtime.engine.streams import Stream
from sc2onnx.runtime.text.codec import Codec
from sc2onnx.serve.ask import Answer
from sc2onnx.serve.attributing import Repeats
from sc2onnx.serve.dialects import openai, openai_chat
from sc2onnx.serve.dialects.messages import check_converses
from sc2onnx.serve.exchange import Exchange, guarded, merged
from sc2onnx.serve.replies import error, event, replied

_BODY: Final = msgspec.json.Decoder(openai_chat.Body)


class Routes:
    """What they answer."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def routes(self) -> list[Route]:
        """Its paths."""
        return [
            Route(f"{base}/chat/completions", guarded(self._chat), methods=["POST"])
            for base in ("/v1", "")
        ]

    async def _chat(self, request: Request) -> Response:
        body = await self._exchange.body(request, _BODY)
        name, model = self._exchange.service.model(body.model)
        check_converses(model.chats.templates, "/v1/completions or /infill")
        ask, number = openai_chat.ask(body, self._exchange.settings), f"chatcmpl-{uuid.uuid4().hex}"
        repeats = self._exchange.repeats(ask)
        if ask.stream:
            streams = await self._exchange.streams(request, ask)
            told = partial(openai_chat.completion, number, name, part=True)
            events = self._events(body, streams, told, (model.codec, repeats))
            return self._exchange.streamed(streams, events, lambda refusal: event(error(refusal)))
        done = await self._exchange.completions(request, ask)
        empty = body.writes_nothing

        def chosen() -> list[Answer]:
            return [
                openai_chat.choice(index, each, model.codec, empty=empty)
                for index, each in enumerate(done)
            ]

        choices = await asyncio.to_thread(chosen) if body.logprobs else chosen()
        choices = [
            {**choice, **await repeats.of(index, each.text)}
            for index, (choice, each) in enumerate(zip(choices, done, strict=True))
        ]
        used = openai.usage([done[0].usage], [each.usage for each in done], empty=empty)
        return replied(openai_chat.completion(number, name, choices, used))

    async def _events(
        self,
        body: openai_chat.Body,
        streams: Sequence[Stream],
        told: partial[Answer],
        saying: tuple[Codec, Repeats],
    ) -> AsyncIterator[bytes]:
        for index in range(len(streams)):
            yield event(told([openai_chat.first_choice(index)], None))
        (codec, repeats), empty = saying, body.writes_nothing
        async for index, piece in merged(streams):
            choice = openai_chat.piece_choice(index, piece, codec, empty=empty)
            if piece.finish_reason is not None:
                choice = {**choice, **await repeats.of(index, streams[index].text)}
            yield event(told([choice], None))
        if body.usage_at_end:
            each = [stream.usage for stream in streams]
            yield event(told([], openai.usage(each[:1], each, empty=empty)))
        yield openai.DONE
