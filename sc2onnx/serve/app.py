"""The server as an ASGI application: which path speaks which dialect."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from sc2onnx.runtime.engine.handle import Handle, Stream
from sc2onnx.runtime.results import Piece
from sc2onnx.serve.ask import Ask
from sc2onnx.serve.dialects import llama_cpp, openai
from sc2onnx.serve.guard import Guard
from sc2onnx.serve.metrics import Metrics
from sc2onnx.serve.refusal import RefusedError, refusal_of
from sc2onnx.serve.replies import error, event, refused, replied
from sc2onnx.serve.service import Service

LOG: Final = logging.getLogger("sc2onnx.serve")

T = TypeVar("T")

_BODIES: Final = (openai.Body, llama_cpp.Infill, llama_cpp.Complete, llama_cpp.Tokenize, llama_cpp.Detokenize)

_DECODERS: Final[dict[type[Any], Any]] = {kind: msgspec.json.Decoder(kind) for kind in _BODIES}


def application(service: Service) -> ASGIApp:
    """The server's application. Whoever runs it calls :meth:`Service.ready` when models are loaded."""
    return Guard(_Routes(service).app(), service.settings)


class _Routes:
    """What each path answers."""

    def __init__(self, service: Service) -> None:
        self._service, self._settings = service, service.settings
        self._metrics, self._since = Metrics(service), int(time.time())

    def app(self) -> Starlette:
        """The paths."""
        get, post = self._get, self._post
        return Starlette(
            routes=[
                get("/health", self._health),
                get("/metrics", self._metrics.page),
                get("/v1/models", self._models),
                get("/models", self._models),
                get("/props", self._props),
                get("/slots", self._slots),
                post("/v1/completions", self._completions),
                post("/completions", self._completions),
                post("/infill", self._infill),
                post("/completion", self._completion),
                post("/tokenize", self._tokenize),
                post("/detokenize", self._detokenize),
                post("/v1/chat/completions", self._no_chat),
                post("/chat/completions", self._no_chat),
            ],
            exception_handlers={404: _unknown, 405: _unknown},
        )

    def _get(self, path: str, answer: Callable[[Request], Awaitable[Response]]) -> Route:
        return Route(path, _guarded(answer), methods=["GET"])

    def _post(self, path: str, answer: Callable[[Request], Awaitable[Response]]) -> Route:
        return Route(path, _guarded(answer), methods=["POST"])

    async def _health(self, request: Request) -> Response:
        state = self._service.state
        if state == "ready":
            return replied({"status": "ok"})
        told = "Loading model" if state == "loading" else "the server is ending"
        return refused(RefusedError(503, told, "unavailable_error", retry_after=5))

    async def _models(self, request: Request) -> Response:
        context = self._service.model("")[1].manifest.model.context_length
        return replied(openai.models(self._service.names, self._since, context))

    async def _props(self, request: Request) -> Response:
        name, model = self._service.model(request.query_params.get("model", ""))
        return replied(llama_cpp.props(name, model.manifest.model.context_length, model.engine.bounds.rows))

    async def _slots(self, request: Request) -> Response:
        model = self._service.model(request.query_params.get("model", ""))[1]
        busy = len(model.engine.lobby.active)
        return replied(llama_cpp.slots(model.engine.bounds.rows, busy, model.manifest.model.context_length))

    async def _completions(self, request: Request) -> Response:
        body = await self._body(request, openai.Body)
        ask = openai.ask(body, self._settings)
        name, number = self._service.model(ask.model)[0], f"cmpl-{uuid.uuid4().hex}"
        echoes = [prompt if body.echo and isinstance(prompt, str) else "" for prompt in ask.prompts for _ in range(ask.samples)]
        if ask.stream:
            streams = await self._service.streams(ask)
            return self._events(request, streams, self._openai_events(body, ask, streams, echoes, name, number))
        tasks = await self._service.tasks(ask)
        async with self._watched(request, tasks):
            done = [await task for task in tasks]
        self._metrics.took([each.usage for each in done])
        choices = [openai.choice(index, each, echo, None) for index, (each, echo) in enumerate(zip(done, echoes, strict=True))]
        used = openai.usage([each.usage for each in done[:: ask.samples]], [each.usage for each in done])
        return replied(openai.completion(number, name, choices, used))

    async def _openai_events(
        self, body: openai.Body, ask: Ask, streams: Sequence[Stream], echoes: list[str], name: str, number: str
    ) -> AsyncIterator[bytes]:
        async for index, piece in _merged(streams):
            echo, echoes[index] = echoes[index], ""
            yield event(openai.completion(number, name, [openai.piece_choice(index, piece, echo, None)], None))
        if body.usage_at_end:
            used = openai.usage([each.usage for each in streams[:: ask.samples]], [each.usage for each in streams])
            yield event(openai.completion(number, name, [], used))
        yield openai.DONE

    async def _infill(self, request: Request) -> Response:
        body = await self._body(request, llama_cpp.Infill)
        return await self._llama(request, body, llama_cpp.ask_infill(body, self._settings))

    async def _completion(self, request: Request) -> Response:
        body = await self._body(request, llama_cpp.Complete)
        return await self._llama(request, body, llama_cpp.ask_completion(body, self._settings))

    async def _llama(self, request: Request, body: llama_cpp.Sampling, ask: Ask) -> Response:
        name = self._service.model(ask.model)[0]
        if ask.stream and not ask.warms:
            streams = await self._service.streams(ask)
            return self._events(request, streams, self._llama_events(streams, name))
        tasks = await self._service.tasks(ask)
        async with self._watched(request, tasks):
            done = [await task for task in tasks]
        self._metrics.took([each.usage for each in done])
        if ask.warms:
            return replied(llama_cpp.warmed(body, done[0].usage, name))
        answers = [llama_cpp.answer(body, each, name, index) for index, each in enumerate(done)]
        return replied(answers if ask.samples > 1 else answers[0])

    async def _llama_events(self, streams: Sequence[Stream], name: str) -> AsyncIterator[bytes]:
        async for index, piece in _merged(streams):
            yield event(llama_cpp.event(piece, streams[index].usage, name))

    async def _tokenize(self, request: Request) -> Response:
        body = await self._body(request, llama_cpp.Tokenize)
        codec = self._service.model("")[1].codec
        tokens = await asyncio.to_thread(codec.encode, body.content, special=body.parse_special)
        return replied({"tokens": tokens})

    async def _detokenize(self, request: Request) -> Response:
        body = await self._body(request, llama_cpp.Detokenize)
        model = self._service.model("")[1]
        if not all(0 <= token < model.manifest.model.vocab_size for token in body.tokens):
            raise RefusedError(400, f"tokens has an id that is none, expected 0 to {model.manifest.model.vocab_size - 1}", param="tokens")
        text = b"".join(map(model.codec.token_bytes, body.tokens)).decode("utf-8", errors="replace")
        return replied({"content": text})

    async def _no_chat(self, request: Request) -> Response:
        raise RefusedError(501, "a base model completes code and does not chat: use /v1/completions or /infill", "not_supported_error")

    async def _body(self, request: Request, kind: type[T]) -> T:
        """A request's body, read as far as it may be. Raises :class:`RefusedError`."""
        most, read = self._settings.body_bytes, bytearray()
        async for part in request.stream():
            read += part
            if len(read) > most:
                raise RefusedError(413, f"the body has more than {most} bytes: send less")
        try:
            return _DECODERS[kind].decode(read)  # type: ignore[no-any-return]
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as wrong:
            raise RefusedError(400, f"the body is not what this path takes: {wrong}") from None

    def _events(self, request: Request, streams: Sequence[Stream], events: AsyncIterator[bytes]) -> Response:
        """Events as they come, until the client is gone."""
        return StreamingResponse(
            self._watched_events(request, streams, events), media_type="text/event-stream", headers={"cache-control": "no-cache"}
        )

    async def _watched_events(self, request: Request, streams: Sequence[Stream], events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for each in events:
                yield each
        except Exception as failed:
            LOG.exception("a stream failed")
            yield event(error(refusal_of(failed)))
        finally:
            self._service.over(streams)
            self._metrics.took([stream.usage for stream in streams])

    def _watched(self, request: Request, handles: Sequence[Handle[Any]]) -> _Watch:
        return _Watch(self._service, request, handles)


class _Watch:
    """Ends requests whose client is gone."""

    def __init__(self, service: Service, request: Request, handles: Sequence[Handle[Any]]) -> None:
        self._service, self._request, self._handles = service, request, handles
        self._looking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._service.over(self._handles)

    async def __aexit__(self, *ended: object) -> None:
        self._service.over(self._handles)
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking


async def _merged(streams: Sequence[Stream]) -> AsyncIterator[tuple[int, Piece]]:
    """Pieces of several streams as they come, with the number of their stream."""
    if len(streams) == 1:
        async for piece in streams[0]:
            yield 0, piece
        return
    coming: asyncio.Queue[tuple[int, Piece | Exception | None]] = asyncio.Queue(2 * len(streams))

    async def read(index: int, stream: Stream) -> None:
        try:
            async for piece in stream:
                await coming.put((index, piece))
            await coming.put((index, None))
        except Exception as failed:
            await coming.put((index, failed))

    readers = [asyncio.create_task(read(index, stream)) for index, stream in enumerate(streams)]
    try:
        left = len(streams)
        while left:
            index, came = await coming.get()
            if isinstance(came, Exception):
                raise came
            if came is None:
                left -= 1
            else:
                yield index, came
    finally:
        for reader in readers:
            reader.cancel()


def _guarded(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Turn what an answer raises into one."""

    async def guarded(request: Request) -> Response:
        try:
            return await answer(request)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as failed:
            refusal = refusal_of(failed)
            if refusal.status == 500:
                LOG.exception("a request failed")
            return refused(refusal)

    return guarded


async def _unknown(request: Request, error: Exception) -> Response:
    return refused(RefusedError(404, "there is nothing at this path: docs/serving.md lists what there is", "not_found_error"))
