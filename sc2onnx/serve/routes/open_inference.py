"""The paths of the Open Inference Protocol. A model of another name is none, even of one only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sc2onnx.runtime.engine.streams import Stream
from sc2onnx.serve.attributing import Repeats
from sc2onnx.serve.dialects import open_inference
from sc2onnx.serve.exchange import Exchange, guarded, merged
from sc2onnx.serve.refusal import RefusedError
from sc2onnx.serve.replies import event, refused, replied

_GENERATE: Final = msgspec.json.Decoder(open_inference.Generate)


class Routes:
    """What they answer."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange, self._service = exchange, exchange.service

    def routes(self) -> list[Route]:
        """Its paths."""
        model = "/v2/models/{name}"
        answers = [
            ("GET", "/v2", self._server),
            ("GET", "/v2/health/live", self._live),
            ("GET", "/v2/health/ready", self._ready),
            ("GET", model, self._facts),
            ("GET", f"{model}/ready", self._model_ready),
            ("POST", f"{model}/generate", self._generate),
            ("POST", f"{model}/generate_stream", self._stream),
        ]
        return [
            Route(path, guarded(answer, _refused), methods=[method])
            for method, path, answer in answers
        ]

    async def _server(self, request: Request) -> Response:
        return replied(open_inference.server())

    async def _live(self, request: Request) -> Response:
        return replied({"live": True})

    async def _ready(self, request: Request) -> Response:
        if self._service.state != "ready":
            raise self._service.unready()
        return replied({"ready": True})

    async def _facts(self, request: Request) -> Response:
        return replied(open_inference.facts(self._name(request)))

    async def _model_ready(self, request: Request) -> Response:
        return replied({"name": self._name(request), "ready": True})

    async def _generate(self, request: Request) -> Response:
        name = self._name(request)
        body = await self._exchange.body(request, _GENERATE)
        ask = open_inference.ask(body, name, self._exchange.settings, stream=False)
        repeats = self._exchange.repeats(ask)
        done = (await self._exchange.completions(request, ask))[0]
        told = open_inference.answer(name, done, empty=ask.warms)
        return replied({**told, **await repeats.of(0, str(told["text_output"]))})

    async def _stream(self, request: Request) -> Response:
        name = self._name(request)
        body = await self._exchange.body(request, _GENERATE)
        ask = open_inference.ask(body, name, self._exchange.settings, stream=True)
        streams = await self._exchange.streams(request, ask)
        events = self._events(streams, name, self._exchange.repeats(ask), empty=ask.warms)
        return self._exchange.streamed(
            streams, events, lambda refusal: event(open_inference.error(refusal))
        )

    async def _events(
        self,
        streams: Sequence[Stream],
        name: str,
        repeats: Repeats,
        *,
        empty: bool,
    ) -> AsyncIterator[bytes]:
        async for index, piece in merged(streams):
            told = open_inference.event(name, piece, empty=empty)
            if piece.finish_reason is not None:
                text = "" if empty else streams[index].text
                told = {**told, **await repeats.of(index, text)}
            yield event(told)

    def _name(self, request: Request) -> str:
        """The model that the path names. Raises :class:`RefusedError`."""
        given = request.path_params["name"]
        if self._service.model(given)[0] != given:
            expected = ", ".join(self._service.names)
            raise RefusedError(
                404,
                f"there is no model of that name, expected one of {expected}",
                "not_found_error",
            )
        return str(given)


def _refused(refusal: RefusedError) -> Response:
    return refused(refusal, open_inference.error(refusal))
