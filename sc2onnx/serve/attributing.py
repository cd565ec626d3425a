"""What of an answer stands in the files of an index, as clients are told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Self

from sc2onnx.attribution.attribution import Attribution
from sc2onnx.runtime.chat.conversation import Conversation
from sc2onnx.runtime.model import Model
from sc2onnx.runtime.text.fitting import Surroundings
from sc2onnx.serve.ask import Answer, Ask, Tokens


@dataclass(frozen=True, slots=True)
class Repeats:
    """Says which files the answers to a request repeat, but for what stands in its prompts.

    ``prompts``: the texts of each prompt. ``samples``: answers to each. Without an ``attribution``
    nothing is said.
    """

    attribution: Attribution | None
    prompts: tuple[tuple[str, ...], ...] = ()
    samples: int = 1

    @classmethod
    def to(cls, ask: Ask, model: Model, attribution: Attribution | None) -> Self:
        """For the answers to a request. Token ids among its prompts are decoded."""
        if attribution is None:
            return cls(None)
        return cls(attribution, tuple(_texts(each, model) for each in ask.prompts), ask.samples)

    async def of(self, number: int, text: str, offset: int = 0) -> Answer:
        """A field for the answer of a number, whose ``text`` begins at ``offset`` of what its
        client has.
        """
        attribution, prompts = self.attribution, self.prompts
        if attribution is None:
            return {}
        found = await asyncio.to_thread(attribution.of, text, prompts[number // self.samples])
        return {"attribution": [match.as_json(offset) for match in found]}


def _texts(prompt: str | Tokens | Surroundings | Conversation, model: Model) -> tuple[str, ...]:
    if isinstance(prompt, Surroundings | Conversation):
        return prompt.texts
    if isinstance(prompt, str):
        return (prompt,)
    return (b"".join(map(model.codec.token_bytes, prompt)).decode("utf-8", errors="replace"),)
