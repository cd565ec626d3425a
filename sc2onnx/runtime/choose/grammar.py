"""Constraints by llguidance: compiled once, then asked before each token what may come.

It is an own package, imported when a request first has a constraint. What it compiles comes from
strangers, so sizes are bounded before (:mod:`sc2onnx.runtime.choose.constraint`), its own limits
are tighter than usual, and the time that each text takes is counted.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final

from sc2onnx.errors import ConstraintError, MissingDependencyError
from sc2onnx.hints import install
from sc2onnx.runtime.choose.constraint import Constraint
from sc2onnx.runtime.choose.steering import Ends, GrammarSteering, Matcher, checked, cut
from sc2onnx.runtime.choose.vocabulary import TokenBytes
from sc2onnx.runtime.deep_stack import on_a_deep_stack

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

KEPT: Final = 32
"""Compiled constraints that are kept for later requests, the latest ones."""

_LIMITS: Final[dict[str, Any]] = {
    "initial_lexer_fuel": 300_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 50_000,
    "max_lexer_states": 20_000,  # 1 or 2 KB each
    "max_grammar_size": 200_000,
    "precompute_large_lexemes": False,  # takes gigabytes for some
    "verbose_errors": False,
}

_SPACE: Final = r" |\n{1,2}[ \t]{0,20}"
"""Space inside JSON. Without a bound, a model may write nothing else up to its last token."""

_JSON: Final[dict[str, Any]] = {
    "whitespace_pattern": _SPACE,
    "item_separator": ",",
    "key_separator": ":",
    "lenient": False,
    "coerce_one_of": False,
}
"""How JSON is written, whatever a schema says of that: what is not supported is refused."""

Encode = Callable[[str], list[int]]


class Grammars:
    """The compiled constraints of a model. For several threads."""

    def __init__(self, codec: TokenBytes, encode: Encode, size: int, ends: Collection[int]) -> None:
        """``encode``: a text's tokens, special ones as text; ``size``: how many ids the model has
        logits for; ``ends``: the checkpoint's end-of-text tokens.
        """
        self._codec, self._encode, self._size = codec, encode, size
        self._ends = sorted(ends) or [0]  # the library needs one
        self._tokenizer: LLTokenizer | None = None
        self._compiled = OrderedDict[Constraint, "LLMatcher"]()
        self._kept, self._compiling = threading.Lock(), threading.Lock()
        self._asking = threading.RLock()

    def steering(self, constraint: Constraint, stops: Collection[int]) -> GrammarSteering:
        """Where a new text is within a constraint. ``stops``: tokens that end the text.

        Raises :class:`~sc2onnx.errors.ConstraintError` for one that cannot be compiled, and
        :class:`~sc2onnx.errors.MissingDependencyError` without llguidance.
        """
        matcher = self._found(constraint)
        if matcher is None:
            with self._compiling:  # one at a time: each may take all of a processor
                matcher = self._found(constraint) or self._keep(constraint, self._made(constraint))

        def failed() -> None:
            self._forget(constraint)

        assert self._tokenizer is not None
        ends = Ends(self._ends, frozenset(stop for stop in stops if stop < self._size))
        own = Matcher(matcher.deep_copy(), self._tokenizer, self._asking)
        return GrammarSteering(own, ends, failed)

    def _found(self, constraint: Constraint) -> LLMatcher | None:
        with self._kept:
            if constraint in self._compiled:
                self._compiled.move_to_end(constraint)
            return self._compiled.get(constraint)

    def _keep(self, constraint: Constraint, matcher: LLMatcher) -> LLMatcher:
        with self._kept:
            self._compiled[constraint] = matcher
            while len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        return matcher

    def _forget(self, constraint: Constraint) -> None:
        """Compile it anew next time: its copies share a lexer, which is full."""
        with self._kept:
            self._compiled.pop(constraint, None)

    def _made(self, constraint: Constraint) -> LLMatcher:
        """A constraint, compiled, its first tokens known."""
        library = _library()
        if self._tokenizer is None:
            self._tokenizer = self._made_tokenizer()
        tokenizer = self._tokenizer

        def work() -> LLMatcher:
            grammar = _grammar_text(constraint)
            limits = library.LLParserLimits(**_LIMITS)
            matcher: LLMatcher = library.LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
            checked(matcher)
            matcher.deep_copy().compute_bitmask()
            return checked(matcher)

        return on_a_deep_stack(work)

    def _made_tokenizer(self) -> LLTokenizer:
        library = _library()
        spelt = _Spelt(self._codec, self._encode, self._size, self._ends[0])
        wrapped = library.TokenizerWrapper(spelt)
        made: LLTokenizer = library.LLTokenizer(wrapped, n_vocab=self._size, eos_token=self._ends)
        return made


class _Spelt:
    """The tokens of a codec, as llguidance takes them."""

    bos_token_id = None

    def __init__(self, codec: TokenBytes, encode: Encode, size: int, end: int) -> None:
        self.tokens = [codec.token_bytes(token) for token in range(size)]
        self.special_token_ids = [token for token, text in enumerate(self.tokens) if not text]
        self.eos_token_id, self._encode = end, encode

    def __call__(self, text: bytes | str) -> list[int]:
        return self._encode(text if isinstance(text, str) else text.decode(errors="replace"))


def _grammar_text(constraint: Constraint) -> str:
    """A constraint in the library's words. Raises :class:`~sc2onnx.errors.ConstraintError`."""
    library, text = _library(), constraint.text
    try:
        if constraint.kind == "json_schema":
            return str(library.LLMatcher.grammar_from_json_schema(text, overrides=_JSON))
        if constraint.kind == "regex":
            return str(library.LLMatcher.grammar_from_regex(text))
        if constraint.kind == "choices":
            words = " | ".join(json.dumps(word) for word in json.loads(text))
            return str(library.LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {words}"))
        return str(library.grammar_from("grammar", text))
    except (ValueError, RecursionError) as error:
        told = f"{constraint.kind} cannot be read ({cut(error)}): correct it"
        raise ConstraintError(told) from None


def _library() -> Any:
    try:
        import llguidance
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"grammar, json_schema, regex and choices need llguidance: {install('constrained')}"
        ) from error
    return llguidance
