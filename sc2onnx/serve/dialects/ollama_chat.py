"""Ollama's ``/api/chat``: lines of JSON, each with a piece of a message."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct, field

from sc2onnx.runtime.results import FinishReason, Usage
from sc2onnx.serve.ask import Answer, Ask
from sc2onnx.serve.dialects import messages as said
from sc2onnx.serve.dialects.messages import check_no_tools, conversation
from sc2onnx.serve.dialects.ollama import Options, ending, formatted, keywords, now, untagged
from sc2onnx.serve.refusal import RefusedError
from sc2onnx.serve.settings import Settings


class Message(said.Message):
    """A message. ``thinking`` is ignored, as templates of StarCoder2 have no place for it."""

    images: list[Any] | None = None


class Chat(Struct):
    """``/api/chat``. ``keep_alive`` is ignored: models stay loaded."""

    model: str = ""
    messages: Annotated[list[Message], Meta(max_length=said.MOST)] = field(default_factory=list)
    stream: bool = True
    format: str | dict[str, Any] | None = None
    tools: list[Any] | None = None
    think: bool | str | None = None
    options: Options = field(default_factory=Options)


def ask(body: Chat, settings: Settings) -> Ask | None:
    """What a body asks for; None: no messages, which asks for the model to be loaded."""
    check_no_tools("tools", body.tools)
    if body.think:
        raise RefusedError(
            501, "think is not supported, expected none", "not_supported_error", param="think"
        )
    if any(message.images for message in body.messages):
        raise RefusedError(400, "a message has images, expected texts only", param="messages")
    if not body.messages:
        return None
    options = keywords(body.options, settings, settings.most_tokens)
    options.update(formatted(body.format))
    return Ask((conversation(body.messages),), options, 1, untagged(body.model), body.stream)


def part(name: str, text: str) -> Answer:
    """A piece of a message."""
    message = {"role": "assistant", "content": text}
    return {"model": name, "created_at": now(), "message": message, "done": False}


def whole(name: str, text: str, reason: FinishReason, used: Usage) -> Answer:
    """A message, or the last piece of one."""
    return {**part(name, text), **ending(reason, used)}


def loaded(name: str) -> Answer:
    """The answer to no messages."""
    return {**part(name, ""), "done": True, "done_reason": "load"}
