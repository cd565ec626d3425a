"""The paths of llama.cpp's server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sc2onnx.bundle.chat_templates import DEFAULT
from sc2onnx.runtime.engine.streams import Stream
from sc2onnx.serve.ask import Ask
from sc2onnx.serve.attributing import Repeats
from sc2onnx.serve.dialects import llama_cpp, llama_cpp_answers
from sc2onnx.serve.dialects.messages import check_converses, conversation
from sc2onnx.serve.exchange import Exchange, guarded, merged
from sc2onnx.serve.refusal import RefusedError
from sc2onnx.serve.replies import error, event, replied

_INFILL: Final = msgspec.json.Decoder(llama_cpp.Infill)
_COMPLETE: Final = msgspec.json.Decoder(llama_cpp.Complete)
_TOKENIZE: Final = msgspec.json.Decoder(llama_cpp.Tokenize)
_APPLY_TEMPLATE: Final = msgspec.json.Decoder(llama_cpp.ApplyTemplate)
_DETOKENIZE: Final = msgspec.json.Decoder(llama_cpp.Detokenize)

_CHARACTERS: Final = 8
"""Of a text to tokenize, for each token of the context: more than code has."""


class Routes:
    """What they answer."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange, self._service = exchange, exchange.service

    def routes(self) -> list[Route]:
        """Its paths."""
        answers = [
            ("GET", "/props", self._props),
            ("GET", "/slots", self._slots),
            ("GET", "/lora-adapters", self._adapters),
            ("POST", "/lora-adapters", self._no_scales),
            ("POST", "/infill", self._infill),
            ("POST", "/completion", self._completion),
            ("POST", "/tokenize", self._tokenize),
            ("POST", "/detokenize", self._detokenize),
            ("POST", "/apply-template", self._apply_template),
        ]
        return [Route(path, guarded(answer), methods=[method]) for method, path, answer in answers]

    async def _props(self, request: Request) -> Response:
        name, model = self._service.model(request.query_params.get("model", ""))
        context, rows = model.manifest.model.context_length, model.engine.bounds.rows
        template = model.chats.templates.by_name.get(DEFAULT, "")
        return replied(llama_cpp_answers.props(name, context, rows, template))

    async def _slots(self, request: Request) -> Response:
        model = self._service.model(request.query_params.get("model", ""))[1]
        rows, busy = model.engine.bounds.rows, len(model.engine.lobby.active)
        return replied(llama_cpp_answers.slots(rows, busy, model.manifest.model.context_length))

    async def _adapters(self, request: Request) -> Response:
        model = self._service.model(request.query_params.get("model", ""))[1]
        return replied(llama_cpp_answers.lora_adapters(list(model.adapters)))

    async def _no_scales(self, request: Request) -> Response:
        raise RefusedError(
            501,
            "scales for all requests are not supported: send lora, [{id, scale}], with each, or "
            "the adapter's name as its model",
            "not_supported_error",
        )

    async def _infill(self, request: Request) -> Response:
        body = await self._exchange.body(request, _INFILL)
        return await self._answered(
            request, body, llama_cpp.ask_infill(body, self._exchange.settings)
        )

    async def _completion(self, request: Request) -> Response:
        body = await self._exchange.body(request, _COMPLETE)
        return await self._answered(
            request, body, llama_cpp.ask_completion(body, self._exchange.settings)
        )

    async def _answered(self, request: Request, body: llama_cpp.Sampling, ask: Ask) -> Response:
        name, repeats = self._service.model(ask.model)[0], self._exchange.repeats(ask)
        if ask.stream and not ask.warms:
            streams = await self._exchange.streams(request, ask)
            return self._exchange.streamed(
                streams, self._events(streams, name, repeats), lambda refusal: event(error(refusal))
            )
        done = await self._exchange.completions(request, ask)
        if ask.warms:
            return replied(llama_cpp_answers.warmed(body, done[0].usage, name))
        answers = [
            llama_cpp_answers.answer(body, each, name, index, await repeats.of(index, each.text))
            for index, each in enumerate(done)
        ]
        return replied(answers if ask.samples > 1 else answers[0])

    async def _events(
        self, streams: Sequence[Stream], name: str, repeats: Repeats
    ) -> AsyncIterator[bytes]:
        async for index, piece in merged(streams):
            used = streams[index].used
            cut = used is not None and used.cut
            told = llama_cpp_answers.event(piece, streams[index].usage, name, index, cut=cut)
            if piece.finish_reason is not None:
                told = {**told, **await repeats.of(index, streams[index].text)}
            yield event(told)

    async def _tokenize(self, request: Request) -> Response:
        body = await self._exchange.body(request, _TOKENIZE)
        model = self._service.model("")[1]
        codec, most = model.codec, _CHARACTERS * model.manifest.model.context_length
        # it takes seconds a megabyte, in which nobody else is answered
        if len(body.content) > most:
            told = (
                f"content has {len(body.content)} characters, expected at most {most}: send parts"
            )
            raise RefusedError(413, told, param="content")
        tokens = await asyncio.to_thread(codec.encode, body.content, special=body.parse_special)
        return replied({"tokens": tokens})

    async def _apply_template(self, request: Request) -> Response:
        body = await self._exchange.body(request, _APPLY_TEMPLATE)
        model = self._service.model(body.model)[1]
        check_converses(model.chats.templates, "/completion or /infill")
        asked = conversation(body.messages, body.chat_template_kwargs)
        prompt = await self._service.templated(lambda: model.chats.text(asked))
        return replied({"prompt": prompt})

    async def _detokenize(self, request: Request) -> Response:
        body = await self._exchange.body(request, _DETOKENIZE)
        model = self._service.model("")[1]
        vocab = model.manifest.model.vocab_size
        if not all(0 <= token < vocab for token in body.tokens):
            raise RefusedError(
                400, f"tokens has an id that is none, expected 0 to {vocab - 1}", param="tokens"
            )
        text = b"".join(map(model.codec.token_bytes, body.tokens)).decode("utf-8", errors="replace")
        return replied({"content": text})
