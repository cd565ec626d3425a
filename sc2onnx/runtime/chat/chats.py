"""Conversations -> prompts, by the templates of a bundle."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sc2onnx.errors import RequestError
from sc2onnx.runtime.chat.conversation import Conversation, Message
from sc2onnx.runtime.chat.marks import marked, parts
from sc2onnx.runtime.chat.process import Renderer
from sc2onnx.runtime.chat.templates import ChatTemplates, Contents
from sc2onnx.runtime.chat.turns import TurnEnd, turn_end
from sc2onnx.runtime.chat_options import ChatOptions
from sc2onnx.runtime.engine.row import Gives, Row
from sc2onnx.runtime.options import GenerationOptions
from sc2onnx.runtime.prompts import Prompt
from sc2onnx.runtime.request import Requests
from sc2onnx.runtime.text.codec import Codec

_OPEN_END: Final = "THE-MESSAGE-GOES-ON-HERE "
"""Put behind a message that is to be continued, and looked for in the prompt."""


class Chats:
    """Makes the prompts and rows of conversations. For any number of threads."""

    def __init__(
        self,
        contents: Contents,
        codec: Callable[[], Codec],
        requests: Requests,
        renderer: Renderer | None = None,
    ) -> None:
        """``contents``: of the bundle's files. ``codec``: opens the tokenizer when it is first
        needed.
        """
        self._contents, self._codec, self._requests = contents, codec, requests
        self.renderer = renderer or Renderer()
        self._templates: ChatTemplates | None = None
        self._ends = dict[str, TurnEnd]()
        self._lock = threading.Lock()

    @property
    def templates(self) -> ChatTemplates:
        """The bundle's templates, read when they are first asked for, and not rendered.

        Raises :class:`~sc2onnx.errors.ChatTemplateError` for files that cannot be read, and
        :class:`~sc2onnx.errors.BundleIntegrityError` for one that is another by now.
        """
        with self._lock:
            if self._templates is None:
                self._templates = ChatTemplates.read(self._contents)
            return self._templates

    def row(
        self,
        messages: Sequence[Message],
        options: ChatOptions,
        gives: Gives,
        replaces: Hashable | None = None,
    ) -> Row:
        """The row that answers messages. ``replaces``: see
        :class:`~sc2onnx.runtime.engine.terms.Terms`.
        """
        asked = Conversation.of(
            messages, options.template, options.variables, continues=options.continue_final_message
        )
        prompt, ending = self.prompt(asked, options)
        return self._requests.text_row(prompt, ending, gives, replaces=replaces)

    def prompt(
        self, conversation: Conversation, options: GenerationOptions
    ) -> tuple[Prompt, GenerationOptions]:
        """A conversation as a prompt, and the options with what ends an answer by its template.

        Raises :class:`~sc2onnx.errors.ChatTemplateError` where the bundle does not chat,
        :class:`~sc2onnx.errors.RequestError` and its subclasses for messages that the template does
        not take, and :class:`~sc2onnx.errors.MissingDependencyError` without jinja2.
        """
        self._codec()  # first: it knows whether this process is another by now
        template = self.templates.template(conversation.template)
        plain = options.special_tokens == "text"
        control = self._control(template) if plain else ()
        text = self._rendered(template, conversation, control)
        written = list(parts(text, control)) if plain else [(text, True)]
        prompt = self._requests.prompts.of_parts(written, options)
        return prompt, self._ending(template, options)

    def text(self, conversation: Conversation) -> str:
        """A conversation as the text of a prompt. Raises what :meth:`prompt` raises."""
        return self._rendered(self.templates.template(conversation.template), conversation)

    def _rendered(
        self, template: str, conversation: Conversation, control: Sequence[str] = ()
    ) -> str:
        """The text of a prompt, control tokens in messages marked."""
        messages: list[Any] = marked(list(conversation.messages), control)
        variables = marked(dict(conversation.variables), control)
        if not conversation.continues:
            return self._render(template, messages, variables)
        text = self._render(template, _continued(messages), variables, answers=False)
        before, found, _ = text.rpartition(_OPEN_END.strip())
        if not found:
            raise RequestError(
                "the chat template leaves the last message out, so it cannot be continued: "
                "expected continue_final_message=False"
            )
        whole = text[len(before) :].startswith(_OPEN_END)
        return before if whole else before.rstrip()

    def _render(
        self,
        template: str,
        messages: Sequence[Message],
        variables: Mapping[str, Any],
        *,
        answers: bool = True,
    ) -> str:
        given = {
            "tools": None,
            "documents": None,
            **self.templates.tokens,
            **variables,
            "messages": messages,
            "add_generation_prompt": answers,
        }
        return self.renderer.render(template, given)

    def _control(self, template: str) -> list[str]:
        """Tokens that a message must not spell: special ones, and others that the template has."""
        added = self._codec().added_tokens
        return [text for text, special in added.items() if special or text in template]

    def _ending(self, template: str, options: GenerationOptions) -> GenerationOptions:
        """The options, which end an answer where its template does, unless they say otherwise."""
        if options.stop_tokens is not None:
            return options
        end = self._turn_end(template)
        stops = set(self._requests.usual_stops)
        if end.token is not None:
            stops.add(self._codec().special_id(end.token))
        before = () if end.before is None else (end.before,)
        given = options.stop
        assert isinstance(given, tuple)
        return replace(options, stop_tokens=stops, stop=(*given, *before))

    def _turn_end(self, template: str) -> TurnEnd:
        if template not in self._ends:
            self._ends[template] = turn_end(
                lambda messages: self._render(template, messages, {}, answers=False),
                self._codec().added_tokens,
            )
        return self._ends[template]


def _continued(messages: Sequence[Message]) -> list[Message]:
    """The messages, the end of the last one's text marked."""
    *before, last = messages
    content = last.get("content")
    if isinstance(content, str):
        return [*before, {**last, "content": content + _OPEN_END}]
    if isinstance(content, list):
        for number in reversed(range(len(content))):
            part = content[number]
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                goes_on = {**part, "text": part["text"] + _OPEN_END}
                return [
                    *before,
                    {**last, "content": [*content[:number], goes_on, *content[number + 1 :]]},
                ]
    raise RequestError(
        "the last message has no text, expected some to go on from: continue_final_message"
    )
