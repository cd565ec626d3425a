"""What ends an answer: whatever a template writes between it and the next question.

Trainers often leave a template's end of turn out of ``eos_token_id``, and a model then goes on in
both roles. So a template is asked: it renders a question, an answer and another question.

Worked example, ChatML: between answer and question stands ``<|im_end|>``, a line break, and
``<|im_start|>user``. The first is a token, which ends an answer. A template in plain text, such as
Alpaca's, has the line ``### Instruction:`` there, before which an answer ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from sc2onnx.errors import RequestError
from sc2onnx.runtime.chat.conversation import Message

_QUESTION: Final = "what-is-asked-first"
_ANSWER: Final = "what-is-answered"
_NEXT: Final = "what-is-asked-next"

_LEAST: Final = 3
"""Characters of a line that ends an answer."""


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """A ``token`` that ends an answer, and a text ``before`` which it ends; None where a template
    has none.
    """

    token: str | None = None
    before: str | None = None


def turn_end(render: Callable[[list[Message]], str], tokens: Collection[str]) -> TurnEnd:
    """What ends an answer in a template. ``render``: the template. ``tokens``: all that the
    tokenizer reads as one. A template that takes no such conversation says nothing.
    """
    spoken = (("user", _QUESTION), ("assistant", _ANSWER), ("user", _NEXT))
    try:
        text = render([{"role": role, "content": content} for role, content in spoken])
    except RequestError:
        return TurnEnd()
    begin, end = text.rfind(_ANSWER), text.rfind(_NEXT)
    if begin < 0 or end < begin:
        return TurnEnd()
    between = text[begin + len(_ANSWER) : end]
    near = between.lstrip()
    first = max((token for token in tokens if near.startswith(token)), key=len, default=None)
    return TurnEnd(first, _line(between, tokens))


def _line(between: str, tokens: Collection[str]) -> str | None:
    """The last line before a question, where it is one of plain text."""
    _, broken, line = between.rstrip().rpartition("\n")
    plain = len(line) >= _LEAST and not any(token in line for token in tokens)
    return f"\n{line}" if plain and broken else None
