"""The paths of Tabby's server, but for completions, which have the path that OpenAI's have."""

from __future__ import annotations

from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sc2onnx.runtime.limits import processors
from sc2onnx.serve.dialects import tabby
from sc2onnx.serve.exchange import Exchange, guarded
from sc2onnx.serve.replies import replied

_EVENT: Final = msgspec.json.Decoder(tabby.Event)


class Routes:
    """What they answer."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def routes(self) -> list[Route]:
        """Its paths."""
        return [
            Route("/v1/health", guarded(self._health), methods=["GET", "POST"]),
            Route("/v1/events", guarded(self._events), methods=["POST"]),
            Route("/v1beta/server_setting", guarded(self._setting), methods=["GET"]),
        ]

    async def _health(self, request: Request) -> Response:
        name, model = self._exchange.service.model("")
        return replied(tabby.health(name, model.manifest.target, processors()))

    async def _events(self, request: Request) -> Response:
        await self._exchange.body(request, _EVENT)
        return replied({})

    async def _setting(self, request: Request) -> Response:
        return replied({"disable_client_side_telemetry": True})
