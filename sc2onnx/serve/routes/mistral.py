"""The path of Mistral's fill-in-the-middle completions."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sc2onnx.runtime.engine.streams import Stream
from sc2onnx.serve.attributing import Repeats
from sc2onnx.serve.dialects import mistral
from sc2onnx.serve.dialects.openai import DONE
from sc2onnx.serve.exchange import Exchange, guarded, merged
from sc2onnx.serve.replies import error, event, replied

_FIM: Final = msgspec.json.Decoder(mistral.Fim)


class Routes:
    """What it answers."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def routes(self) -> list[Route]:
        """Its paths."""
        return [
            Route(path, guarded(self._fim), methods=["POST"])
            for path in ("/v1/fim/completions", "/fim/completions")
        ]

    async def _fim(self, request: Request) -> Response:
        body = await self._exchange.body(request, _FIM)
        ask = mistral.ask(body, self._exchange.settings)
        name, number = self._exchange.service.model(ask.model)[0], f"fim-{uuid.uuid4().hex}"
        repeats = self._exchange.repeats(ask)
        if not ask.stream:
            done = (await self._exchange.completions(request, ask))[0]
            told, more = (
                replace(done, text="") if ask.warms else done,
                await repeats.of(0, done.text),
            )
            return replied(mistral.answer(number, name, told, more))
        streams = await self._exchange.streams(request, ask)
        events = self._events(streams, (name, number, repeats), empty=ask.warms)
        return self._exchange.streamed(streams, events, lambda refusal: event(error(refusal)))

    async def _events(
        self, streams: Sequence[Stream], answering: tuple[str, str, Repeats], *, empty: bool
    ) -> AsyncIterator[bytes]:
        name, number, repeats = answering
        async for index, piece in merged(streams):
            told = replace(piece, text="") if empty else piece
            last, more = piece.finish_reason is not None, dict[str, object]()
            if last:
                more.update(await repeats.of(index, streams[index].text))
            yield event(mistral.event(number, name, told, streams[index].usage, more))
        yield DONE
