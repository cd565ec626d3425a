"""The server as an ASGI application."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from sc2onnx.serve.exchange import Exchange, guarded
from sc2onnx.serve.guard import Guard, refusing
from sc2onnx.serve.logs import Logged
from sc2onnx.serve.metrics import Metrics
from sc2onnx.serve.refusal import RefusedError
from sc2onnx.serve.replies import replied
from sc2onnx.serve.routes import (
    llama_cpp,
    mistral,
    ollama,
    open_inference,
    openai,
    openai_chat,
    page,
    tabby,
)
from sc2onnx.serve.service import Service


def application(service: Service) -> ASGIApp:
    """The server's application. Whoever runs it calls
    :meth:`Service.ready` when models are loaded.
    """
    metrics = Metrics(service)
    exchange = Exchange(service, metrics)

    async def health(request: Request) -> Response:
        if service.state == "ready":
            return replied({"status": "ok"})
        raise service.unready()

    async def alive(request: Request) -> Response:
        return replied({"status": "ok"})

    parts = [
        part.Routes(exchange)
        for part in (
            openai,
            openai_chat,
            llama_cpp,
            ollama,
            mistral,
            tabby,
            open_inference,
            page,
        )
    ]
    routes = [
        Route("/health", guarded(health)),
        Route("/livez", guarded(alive)),
        Route("/metrics", guarded(metrics.page)),
    ]
    routes += [route for part in parts for route in part.routes()]
    paths = Starlette(routes=routes, exception_handlers={404: _unknown, 405: _unknown})
    paths.router.redirect_slashes = False
    return Logged(
        Guard(paths, service.settings), lambda: service.state == "draining", metrics.answered
    )


async def _unknown(request: Request, error: Exception) -> Response:
    if getattr(error, "status_code", 404) == 405:
        told = f"{request.method} is not what this path takes: docs/serving.md says what it does"
        return refusing(request.url.path, RefusedError(405, told))
    told = "there is nothing at this path: docs/serving.md lists what there is"
    return refusing(request.url.path, RefusedError(404, told, "not_found_error"))
