"""Messages of a conversation, as OpenAI's and llama.cpp's clients send them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from sc2onnx.runtime.chat.conversation import Conversation
from sc2onnx.runtime.chat.templates import ChatTemplates
from sc2onnx.serve.refusal import RefusedError

MOST: Final = 4096
"""Messages of a conversation, and parts of a message."""

ROLE: Final = r"^[A-Za-z0-9_-]{1,64}$"
"""What a role looks like: templates write it between control tokens."""

_TOOLS: Final = ("tool", "function")


class Part(Struct):
    """A part of a message. Only texts are taken."""

    type: str = "text"
    text: str | None = None


class Message(Struct):
    """A message. What is not listed is ignored."""

    role: Annotated[str, Meta(pattern=ROLE)]
    content: str | Annotated[list[Part], Meta(max_length=MOST)] | None = None
    name: Annotated[str, Meta(max_length=256)] | None = None
    tool_calls: list[Any] | None = None
    function_call: Any = None


Messages = Annotated[list[Message], Meta(max_length=MOST)]
"""A conversation."""


def conversation(
    messages: Sequence[Message],
    variables: Mapping[str, Any] | None = None,
    *,
    continues: bool = False,
) -> Conversation:
    """Messages as templates take them: parts of a text are joined by line breaks, and a developer
    speaks as the system. Raises :class:`RefusedError`, and what a conversation raises.
    """
    return Conversation.of(list(_plain(messages)), None, variables, continues=continues)


def _plain(messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if message.role in _TOOLS or message.tool_calls or message.function_call:
            raise RefusedError(
                400, f"{where} is about a tool, which is not supported, expected none", param=where
            )
        role = "system" if message.role == "developer" else message.role
        given = {"role": role, "content": _text(where, message.content)}
        yield given if message.name is None else {**given, "name": message.name}


def _text(where: str, content: str | list[Part] | None) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        raise RefusedError(400, f"{where} has no content, expected a text", param=where)
    for part in content:
        if part.text is None or part.type != "text":
            told = f"{where} has a part of type {part.type[:40]!r}, expected texts only"
            raise RefusedError(400, told, param=where)
    return "\n".join(part.text or "" for part in content)


def check_converses(templates: ChatTemplates, instead: str) -> None:
    """Raise :class:`RefusedError` for a model without a chat template. ``instead``: what to ask of
    it.
    """
    if not templates.by_name:
        raise RefusedError(
            501,
            f"a base model completes code and does not chat: use {instead}, or serve an "
            "instruct model",
            "not_supported_error",
        )


def check_no_tools(name: str, given: object) -> None:
    """Raise :class:`RefusedError` for tools in the field ``name``: an answer without them would be
    one that was not asked for.
    """
    if given:
        raise RefusedError(400, f"{name} is not supported, expected none", param=name)
