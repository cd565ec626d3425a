"""Control tokens that are spelt out in messages: marked, so that they stay characters.

A template writes control tokens between messages, as text. Whoever spells one out in a message
would end it, and speak in another role. So before a template sees them, control tokens in messages
are put between two characters that no text has, and what is between these in the prompt is text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any, Final

BEGIN: Final = "\U000f0000"
END: Final = "\U000f0001"

Part = tuple[str, bool]
"""A part of a prompt, and whether control tokens spelt out in it are such."""


def marked(value: Any, tokens: Collection[str]) -> Any:
    """A value of JSON in whose texts these tokens are marked; keys are left as they are."""
    if not tokens:
        return value
    found = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))

    def mark(value: Any) -> Any:
        if isinstance(value, str):
            clean = value.replace(BEGIN, "").replace(END, "")  # else marks could be forged
            return found.sub(f"{BEGIN}\\g<0>{END}", clean)
        if isinstance(value, dict):
            return {key: mark(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [mark(item) for item in value]
        return value

    return mark(value)


def parts(prompt: str, tokens: Collection[str]) -> Iterator[Part]:
    """The parts of a prompt of marked messages. A mark that a template tore from its other half
    only parts what is beside it.
    """
    words = "|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))
    between = re.compile(f"{BEGIN}({words}){END}|[{BEGIN}{END}]")
    at = 0
    for found in between.finditer(prompt):
        if prompt[at : found.start()]:
            yield prompt[at : found.start()], True
        if found[1]:
            yield found[1], False
        at = found.end()
    if prompt[at:]:
        yield prompt[at:], True
