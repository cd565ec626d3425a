"""A conversation as somebody asks for its next message: plain values, checked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sc2onnx.errors import RequestError
from sc2onnx.runtime.arguments import shown

_MOST: Final = 16 << 20
"""Characters of all messages: more than any context holds."""

Message = Mapping[str, Any]
"""``role``, such as ``"user"``, ``content``, and what else a template reads."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages, and how they become a prompt.

    ``messages``: copies of what was given, entries that are None left out, as transformers does.
    ``template``: the name of a template; None: the default one. ``variables``: what else the
    template finds. ``continues``: the last message is to be continued, not answered. ``size``:
    characters of all of it.

    Raises :class:`~sc2onnx.errors.RequestError` on construction by :meth:`of`.
    """

    messages: tuple[Message, ...]
    template: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    continues: bool = False
    size: int = 0

    @property
    def texts(self) -> tuple[str, ...]:
        """What its messages say."""
        said = (message.get("content") for message in self.messages)
        return tuple(each for each in said if isinstance(each, str))

    @classmethod
    def of(
        cls,
        messages: Sequence[Message],
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
        *,
        continues: bool = False,
    ) -> Conversation:
        """A conversation of what a caller gives."""
        given = _listed(messages)
        dropped = [
            {key: value for key, value in message.items() if value is not None} for message in given
        ]
        for number, message in enumerate(dropped):
            if not isinstance(message.get("role"), str):
                raise RequestError(
                    f"messages[{number}] has the role {shown(message.get('role'))}, expected a str "
                    'such as "user"'
                )
        kept, named = _plain("messages", dropped), _plain("variables", dict(variables or {}))
        size = len(kept) + len(named)
        if size > _MOST:
            raise RequestError(f"messages have {size:,} characters, expected at most {_MOST:,}")
        return cls(
            tuple(json.loads(kept)), template, json.loads(named), continues=continues, size=size
        )


def _listed(messages: Any) -> list[Message]:
    """Messages as a list of mappings, at least one."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise RequestError(
            f"messages is {shown(messages)}, expected a list of messages such as "
            '{"role": "user", "content": "..."}'
        )
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise RequestError(
                f"messages[{number}] is {shown(message)}, expected a mapping such as "
                '{"role": "user", "content": "..."}'
            )
    if not messages:
        raise RequestError("there are no messages, expected at least one")
    return list(messages)


def _plain(name: str, value: Any) -> str:
    """A value as JSON: templates get nothing that has methods of its own."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_mapping)
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(
            f"{name} have lone surrogates, expected Unicode characters: decode bytes with "
            "errors='replace'"
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(
            f"{name} have values that JSON has not ({error}), expected texts, numbers, lists and "
            "mappings"
        ) from None
    return text


def _mapping(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__}")
