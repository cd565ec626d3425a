"""What is asked for -> the tokens of a prompt: encoded once, and fitted to the context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from sc2onnx.bundle.facts import ModelFacts
from sc2onnx.errors import ContextLengthError, RequestError
from sc2onnx.runtime.arguments import shown, text
from sc2onnx.runtime.choose.healing import HEALED, taken_back
from sc2onnx.runtime.choose.vocabulary import Vocabulary
from sc2onnx.runtime.infill_options import InfillOptions
from sc2onnx.runtime.options import GenerationOptions
from sc2onnx.runtime.text.codec import Codec
from sc2onnx.runtime.text.endings import Rule, ending
from sc2onnx.runtime.text.fitting import Surroundings, budget_of, fitted


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's tokens. ``healed``: the end of its text, which is to be written again. ``used``:
    what it is made of, where it is for infilling. ``ends``: where its completion ends.
    """

    ids: list[int]
    healed: str = ""
    used: Surroundings | None = None
    ends: Rule | None = None


class Prompts:
    """Makes the prompts of a model."""

    def __init__(self, facts: ModelFacts, codec: Callable[[], Codec]) -> None:
        """``codec``: opens the tokenizer when it is first needed."""
        self._facts, self._open = facts, codec

    def of_text(self, code: str, options: GenerationOptions) -> Prompt:
        """A text as a prompt. Raises :class:`~sc2onnx.errors.RequestError` and its subclasses."""
        special = options.special_tokens == "parse"
        self.check_length(len(text("prompt", code)))
        before, healed = self._cut(code, options.heal, special=special)
        ids = self._open().encode(before, special=special, framed=True)
        return Prompt(ids, healed, ends=ending(options.ends, code, ""))

    def of_parts(self, parts: Sequence[tuple[str, bool]], options: GenerationOptions) -> Prompt:
        """Parts of a text as a prompt, each with whether special tokens spelt out in it are such.
        Nothing is put around them.

        Raises :class:`~sc2onnx.errors.RequestError` and its subclasses.
        """
        self.check_length(sum(len(part) for part, _ in parts))
        codec, ids = self._open(), list[int]()
        for part, special in parts:
            tokens = codec.encode(part, special=special, framed=False)
            if not special and (number := codec.token_id(part)) in tokens:
                raise RequestError(
                    f"{shown(part)} in a message is token {number} in any case, expected messages "
                    'without it, or special_tokens="parse"'
                )
            ids += tokens
        return Prompt(ids, ends=ending(options.ends, "", ""))

    def around(self, prefix: str, suffix: str, options: InfillOptions) -> Prompt:
        """A prompt to fill in the middle, fitted to the context unless it is to go in whole.

        Raises :class:`~sc2onnx.errors.RequestError` and its subclasses.
        """
        given = text("prefix", prefix), text("suffix", suffix)
        before, healed = self._cut(given[0], options.heal, special=False)
        ends = ending(options.ends, *given, options.path)
        code = Surroundings(before, given[1], options.path, options.repo, options.files or {})
        if not options.fit:
            self.check_length(code.characters)
            return Prompt(code.prompt(self._open(), options.order), healed, code, ends)
        context = self._facts.context_length
        budget = budget_of(context, options.max_new_tokens, options.prompt_tokens)
        ids, used = fitted(self._open(), code, budget, options.order)
        return Prompt(ids, healed, used, ends)

    def check_length(self, characters: int) -> None:
        """Refuse a text that cannot fit before it is tokenized, which takes seconds a megabyte.

        Raises :class:`~sc2onnx.errors.ContextLengthError`.
        """
        context = self._facts.context_length
        if characters <= 8 * context or (longest := self._open().longest_token) is None:
            return
        if characters > longest * context:
            raise ContextLengthError(
                f"the prompt is {characters} characters, the model's context holds {context} "
                f"tokens of at most {longest} characters: shorten it"
            )

    def _cut(self, text: str, heal: bool, *, special: bool) -> tuple[str, str]:
        """A text in two: what stays, and the end that is to be written again, none unless it is to
        ``heal``.
        """
        if not heal:
            return text, ""
        near = text[text.find("\n", len(text) - HEALED) + 1 :] if len(text) > HEALED else text
        tokens = self._open().encode(near[-HEALED:], special=special)
        end = taken_back(self._open(), self.vocabulary, tokens)
        return text[: len(text) - len(end)], end

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokens of the model, as healing looks them up."""
        return Vocabulary(self._open(), self._facts.vocab_size)
