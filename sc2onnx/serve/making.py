"""What is asked for -> the rows that compute it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Literal

from sc2onnx.runtime.chat.conversation import Conversation
from sc2onnx.runtime.engine.row import Row
from sc2onnx.runtime.engine.terms import Terms
from sc2onnx.runtime.infill_options import InfillOptions
from sc2onnx.runtime.model import Model
from sc2onnx.runtime.options import GenerationOptions
from sc2onnx.runtime.prompts import Prompt
from sc2onnx.runtime.text.fitting import Surroundings
from sc2onnx.serve.ask import WARMS, Ask, Tokens
from sc2onnx.serve.haste import tokens_in
from sc2onnx.serve.settings import Settings

Gives = Literal["whole", "pieces"]


@dataclass(frozen=True, slots=True)
class Made:
    """``rows`` that answer, and those ``behind`` them, which compute for later requests what of the
    prompts was left out.
    """

    rows: list[Row]
    behind: list[Row] = field(default_factory=list)


def made(model: Model, ask: Ask, gives: Gives, settings: Settings) -> Made:
    """The rows of a request. Raises what the runtime raises for one that cannot be honoured."""
    options = GenerationOptions.of(ask.options)
    found = list[tuple[Prompt, Prompt | None]]()
    for each in ask.prompts:
        if isinstance(each, Conversation):  # it is the only one, and ends where its template says
            prompt, options = model.chats.prompt(each, options)
            found.append((prompt, None))
        else:
            found.append(_prompts(model, each, ask, settings))
    rows = model.requests.whole_rows([prompt for prompt, _ in found], ask.samples, options)
    for number, row in enumerate(rows):
        row.gives = gives
        row.terms = replace(
            row.terms,
            priority=WARMS if ask.warms else row.terms.priority,
            enters=None if number else time.monotonic() + settings.queue_seconds,
            replaces=ask.replaces if len(rows) == 1 else None,
        )
    return Made(rows, [_behind(model, whole, options) for _, whole in found if whole is not None])


def _prompts(
    model: Model, given: str | Tokens | Surroundings, ask: Ask, settings: Settings
) -> tuple[Prompt, Prompt | None]:
    """A prompt, and the whole of it where that would take too long."""
    if isinstance(given, str):
        return model.requests.prompts.of_text(given, GenerationOptions.of(ask.options)), None
    if not isinstance(given, Surroundings):
        return Prompt(list(given)), None
    around = {"path": given.path, "repo": given.repo, "files": given.files}
    how = {"order": ask.order, "heal": settings.heal}
    options = InfillOptions.of({**ask.options, **around, **how})
    whole = model.requests.prompts.around(given.prefix, given.suffix, options)
    if ask.prompt_seconds is None:
        return whole, None
    most = tokens_in(model, whole, model.requests.owner(options), ask.prompt_seconds)
    if most is None:
        return whole, None
    near = replace(options, prompt_tokens=most)
    return model.requests.prompts.around(given.prefix, given.suffix, near), whole


def _behind(model: Model, prompt: Prompt, options: GenerationOptions) -> Row:
    warms = replace(options, max_new_tokens=1, logprobs=False, top_logprobs=0, timeout=None)
    row = model.requests.text_row(prompt, warms, "whole")
    row.terms = Terms(priority=WARMS)
    return row
