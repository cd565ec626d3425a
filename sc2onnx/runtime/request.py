"""A request as it is asked for -> the row that computes it, checked."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.facts import ModelFacts
from sc2onnx.errors import ContextLengthError, EmptyPromptError, RequestError, TokenIdError
from sc2onnx.runtime.adapter import Adapted, Adapter
from sc2onnx.runtime.arguments import shown, some_token_ids, token_ids
from sc2onnx.runtime.choose.chooser import Chooser
from sc2onnx.runtime.choose.constrained import Constrained, Steering
from sc2onnx.runtime.choose.grammar import Grammars
from sc2onnx.runtime.choose.healing import Healing
from sc2onnx.runtime.choose.parameters import SamplingParameters
from sc2onnx.runtime.choose.sampling import Sampler
from sc2onnx.runtime.engine.costs import StepCosts
from sc2onnx.runtime.engine.lookup import Lookup, Memory
from sc2onnx.runtime.engine.row import Gives, Row
from sc2onnx.runtime.engine.shared_prompt import SharedPrompt
from sc2onnx.runtime.engine.speculate import Drafter
from sc2onnx.runtime.engine.terms import Terms
from sc2onnx.runtime.infill_options import InfillOptions
from sc2onnx.runtime.options import GenerationOptions, GenerationRules, owner_of
from sc2onnx.runtime.prompts import Prompt, Prompts
from sc2onnx.runtime.text.codec import Codec
from sc2onnx.runtime.text.sink import TextSink


@dataclass(frozen=True, slots=True)
class Drafting:
    """What guesses are made from, and what steps cost; of a model. ``adapted``: whether there are
    guesses with an adapter as well, where several tokens in a step may differ from one by one.
    """

    memory: Memory
    costs: StepCosts
    adapted: bool = True


class Requests:
    """Makes the rows of a model's requests."""

    def __init__(
        self,
        facts: ModelFacts,
        codec: Callable[[], Codec],
        drafting: Drafting | None,
        adapter: Callable[[str], Adapter],
    ) -> None:
        """``codec``: opens the tokenizer when it is first needed.
        ``drafting``: None for no guesses. ``adapter``: the loaded one of a name.
        """
        self._facts, self._open, self.drafting = facts, codec, drafting
        self._adapter = adapter
        self.prompts = Prompts(facts, codec)

    def adapted(self, name: str | None, scale: float = 1.0) -> Adapted | None:
        """With which adapter a request is computed. Raises :class:`RequestError` for a name that
        is none.
        """
        found = None if name is None else self._adapter(name)
        return None if found is None or not scale else Adapted(found, scale)

    def continuing(
        self,
        prompt: str,
        options: GenerationOptions,
        gives: Gives,
        replaces: Hashable | None = None,
    ) -> Row:
        """The row that continues a text. ``replaces``: see
        :class:`~sc2onnx.runtime.engine.terms.Terms`.
        """
        begun = self.prompts.of_text(prompt, options)
        return self.text_row(begun, options, gives, replaces=replaces)

    def infilling(
        self,
        around: tuple[str, str],
        options: InfillOptions,
        gives: Gives,
        replaces: Hashable | None = None,
    ) -> Row:
        """The row that fills in what stands between ``around``, a prefix and a suffix."""
        begun = self.prompts.around(*around, options)
        return self.text_row(begun, options, gives, replaces=replaces)

    @property
    def usual_stops(self) -> frozenset[int]:
        """Tokens that end a text unless a request says otherwise."""
        return self._open().stop_ids() | frozenset(self._facts.eos_token_ids)

    def rules(self, options: GenerationOptions) -> GenerationRules:
        """What a row with text goes by."""
        stops = self.usual_stops
        if options.stop_tokens is not None:
            stops = self.stop_ids(options.stop_tokens)
        stop = options.stop
        assert isinstance(stop, tuple)
        return GenerationRules(
            options.max_new_tokens,
            options.sampling,
            stop,
            stops,
            logprobs=options.logprobs,
            line_seconds=options.line_seconds,
            top_logprobs=options.top_logprobs,
            namespace=options.namespace,
            prediction=self._predicted(options.prediction),
            prompt_logprobs=options.prompt_logprobs,
            adapted=self.adapted(options.adapter, options.adapter_scale),
        )

    def owner(self, options: GenerationOptions) -> Hashable:
        """Whose caches serve a request, see :func:`sc2onnx.runtime.options.owner_of`."""
        adapted = self.adapted(options.adapter, options.adapter_scale)
        return owner_of(options.namespace, adapted)

    def _predicted(self, prediction: str | None) -> tuple[int, ...]:
        if not prediction or self.drafting is None:
            return ()
        self.prompts.check_length(len(prediction))
        return tuple(self._open().encode(prediction, special=False))

    def token_rules(
        self,
        max_new_tokens: int,
        sampling: SamplingParameters | None,
        stop_tokens: Iterable[int] | None,
        logprobs: bool,
        adapter: str | None = None,
    ) -> GenerationRules:
        """What a row without text goes by, which needs no tokenizer; greedy and up to the
        checkpoint's end-of-text by default.
        """
        if not isinstance(sampling, SamplingParameters | None):
            raise RequestError(
                f"sampling is {shown(sampling)}, expected SamplingParameters or None"
            )
        usual = frozenset(self._facts.eos_token_ids)
        stops = usual if stop_tokens is None else self.stop_ids(stop_tokens)
        drawn = sampling or SamplingParameters()
        adapted = self.adapted(adapter)
        return GenerationRules(max_new_tokens, drawn, (), stops, logprobs, adapted=adapted)

    def stop_ids(self, tokens: Iterable[int]) -> frozenset[int]:
        """Tokens that end a text, checked."""
        vocab = self._facts.vocab_size
        ids = token_ids(tokens, vocab, vocab, name="stop_tokens")
        if len(ids) > vocab:  # some may not have been taken
            raise TokenIdError(
                f"stop_tokens are more than the {vocab} tokens that there are: give each once"
            )
        return frozenset(ids.tolist())

    def text_row(
        self,
        prompt: Prompt,
        options: GenerationOptions,
        gives: Gives,
        *,
        spawned: tuple[int, ...] = (),
        replaces: Hashable | None = None,
    ) -> Row:
        """The row of a prompt, checked: it fits the context. ``spawned``: see
        :class:`~sc2onnx.runtime.choose.sampling.Sampler`; ``replaces``: see
        :class:`~sc2onnx.runtime.engine.terms.Terms`.
        """
        rules = self.rules(options)
        row = self.row(prompt.ids, rules, gives, spawned=spawned)
        if prompt.healed:
            row.sampler = Healing(row.sampler, self._open(), self.prompts.vocabulary, prompt.healed)
        row.text = TextSink(self._open(), rules.stop, prompt.ends, skip=len(prompt.healed))
        row.used, row.terms = prompt.used, terms(options, replaces)
        return row

    def whole_rows(
        self, prompts: Sequence[Prompt], samples: int, options: GenerationOptions
    ) -> list[Row]:
        """A row for each sample of each prompt; those of equal prompts compute it once."""
        counts = Counter(tuple(prompt.ids) for prompt in prompts for _ in range(samples))
        shared = {ids: SharedPrompt(count) for ids, count in counts.items() if count > 1}
        rows = list[Row]()
        for number, prompt in enumerate(prompts):
            for sample in range(samples):
                spawned = _spawned(number, sample)
                row = self.text_row(prompt, options, "whole", spawned=spawned)
                row.shared = shared.get(tuple(prompt.ids))
                rows.append(row)
        return rows

    def row(
        self,
        prompt: Iterable[int] | npt.NDArray[np.integer],
        rules: GenerationRules,
        gives: Gives,
        *,
        spawned: tuple[int, ...] = (),
    ) -> Row:
        """The row of a prompt's tokens, checked.

        Nothing is computed ahead for log probabilities, which would then depend on how long a draft
        was, and so on time.
        """
        context, vocab = self._facts.context_length, self._facts.vocab_size
        try:
            ids = some_token_ids(prompt, vocab, context)
        except EmptyPromptError:
            raise EmptyPromptError(
                "the prompt is empty, expected some text: <|endoftext|> alone starts a new document"
            ) from None
        if len(ids) > context:
            raise ContextLengthError(
                f"the prompt is {len(ids)} tokens, the model's context holds {context}: shorten it"
            )
        sampler: Chooser = Sampler(rules.sampling, ids, vocab, spawned)
        steering = self._steering(rules)
        if steering is not None:
            sampler = Constrained(sampler, steering)
        drafter = None
        guesses = rules.adapted is None or (self.drafting is not None and self.drafting.adapted)
        if self.drafting is not None and not rules.logprobs and guesses:
            lookup = Lookup.of(
                ids.tolist(), self.drafting.memory, rules.namespace, rules.prediction
            )
            drafter = Drafter(lookup, self.drafting.costs, steering)
        return Row(ids, rules, sampler, context, drafter=drafter, gives=gives, steering=steering)

    def prepare(self, options: GenerationOptions) -> None:
        """Compile the constraint of requests to come. Raises what they would raise because of it:
        :class:`~sc2onnx.errors.ConstraintError` or
        :class:`~sc2onnx.errors.MissingDependencyError`.
        """
        self._steering(self.rules(options))

    def _steering(self, rules: GenerationRules) -> Steering | None:
        """Where a new text is within its constraint; None: it has none."""
        constraint = rules.sampling.constraint
        return (
            None if constraint is None else self._grammars.steering(constraint, rules.stop_tokens)
        )

    @cached_property
    def _grammars(self) -> Grammars:
        codec = self._open()

        def encode(text: str) -> list[int]:
            return codec.encode(text, special=False)

        return Grammars(codec, encode, self._facts.vocab_size, self._facts.eos_token_ids)


def _spawned(number: int, sample: int) -> tuple[int, ...]:
    """Which of a seed's streams a sample of the ``number``-th prompt draws from.

    The first sample of the first prompt has the seed's own, as a single one has; those of other
    prompts (1,), (2,) and so on; further samples (0, 1), (0, 2), (1, 1).
    """
    if sample:
        return (number, sample)
    return (number,) if number else ()


def terms(options: GenerationOptions, replaces: Hashable | None = None) -> Terms:
    """How a request stands beside others."""
    late = None if options.timeout is None else time.monotonic() + options.timeout
    return Terms(options.priority, late, replaces)
