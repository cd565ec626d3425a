"""Constraints by llguidance: compiled once, then asked before each token what may come.

It is an own package, imported when a request first has a constraint. What it compiles comes from
strangers, so sizes are bounded before (:mod:`sc2onnx.runtime.choose.constraint`), its own limits
are tighter than usual, and the time that each text takes is counted.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from sc2onnx.errors import ConstraintError, MissingDependencyError
from sc2onnx.hints import install
from sc2onnx.runtime.choose.constraint import Constraint
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

_SECONDS: Final = 1.0
_SECONDS_A_TOKEN: Final = 0.02
"""That a text's constraint may take: so much, and so much for each token. A usual one takes a
hundredth of that; an ambiguous grammar takes longer from token to token.
"""

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
        self._ends = sorted(ends) or [0]
        self._tokenizer: LLTokenizer | None = None
        self._compiled = OrderedDict[Constraint, "LLMatcher"]()
        self._kept = threading.Lock()
        self._compiling = threading.Lock()

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
        ends = _Ends(self._ends, frozenset(stops))
        return GrammarSteering(matcher.deep_copy(), self._tokenizer, ends, failed)

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
            _checked(matcher)
            matcher.deep_copy().compute_bitmask()
            return _checked(matcher)

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


class _Ends:
    """Tokens that end a text, ``stops``, and the library's own: no other place has any of them."""

    def __init__(self, every: Collection[int], stops: frozenset[int]) -> None:
        self.stops = stops
        self.every = np.array(sorted({*every, *stops}), dtype=np.int64)
        self.ending = np.array(sorted(stops), dtype=np.int64)


class GrammarSteering:
    """Where one text is within its constraint, see
    :class:`~sc2onnx.runtime.choose.constrained.Steering`. For whoever has the turn.
    """

    def __init__(
        self, matcher: LLMatcher, tokenizer: LLTokenizer, ends: _Ends, failed: Callable[[], None]
    ) -> None:
        """``failed``: called when the constraint is too much for the library."""
        self._matcher, self._tokenizer, self._ends, self._failed = matcher, tokenizer, ends, failed
        self._bound, self._spent, self._begun = _SECONDS, 0.0, False

    @property
    def complete(self) -> bool:
        """Whether the text satisfies the constraint, and nothing can follow it."""
        return self._begun and self._matcher.is_stopped() and not self._matcher.is_error()

    def allowed(self) -> npt.NDArray[np.int64]:
        """Tokens that may come next; stop tokens only where the text may end. Raises
        :class:`~sc2onnx.errors.ConstraintError`.
        """
        began = time.perf_counter()
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check(began)
        allowed = np.unpackbits(mask, bitorder="little")  # as many as the vocabulary, or some more
        allowed[self._ends.every] = 0
        if self._matcher.is_accepting():
            allowed[self._ends.ending] = 1
        found = np.flatnonzero(allowed)
        if not found.size:
            raise ConstraintError(
                "the constraint allows no token here, and no end: correct it, or leave the "
                "checkpoint's end-of-text among stop_tokens"
            )
        return found

    def take(self, token: int) -> None:
        """Go on by a token that was drawn."""
        if token not in self._ends.stops:
            began = time.perf_counter()
            self._matcher.consume_token(token)
            self._begun = True
            self._bound += _SECONDS_A_TOKEN
            self._check(began)

    def forced(self, limit: int) -> list[int]:
        """Tokens that have to come next, at most ``limit``."""
        return self._matcher.compute_ff_tokens()[:limit]

    def agreed(self, tokens: list[int]) -> int:
        """How many of these tokens may come next, one after the other."""
        return self._matcher.validate_tokens(tokens)

    def permits(self, spelling: bytes) -> bool:
        """Whether the text may go on with these bytes."""
        tokens = self._tokenizer.tokenize_bytes(spelling)
        return self._matcher.validate_tokens(tokens) == len(tokens)

    def begin(self, spelling: bytes) -> None:
        """Go on by bytes, which are permitted."""
        for token in self._tokenizer.tokenize_bytes(spelling):
            self.take(token)

    def _check(self, began: float) -> None:
        """Raise what is wrong, or too slow."""
        self._spent += time.perf_counter() - began
        try:
            _checked(self._matcher)
        except ConstraintError:
            self._failed()
            raise
        if self._spent > self._bound:
            raise ConstraintError(
                "the constraint takes too long: make its grammar unambiguous, or simplify it"
            )


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
        told = f"{constraint.kind} cannot be read ({_cut(error)}): correct it"
        raise ConstraintError(told) from None


def _checked(matcher: LLMatcher) -> LLMatcher:
    """A matcher without an error. Raises :class:`~sc2onnx.errors.ConstraintError`."""
    if matcher.is_error():
        told = _cut(matcher.get_error())
        if "NoExtension" in told:
            told = "no text satisfies it"
        raise ConstraintError(f"the constraint cannot be kept ({told}): correct or simplify it")
    return matcher


def _cut(error: object) -> str:
    """What the library says, on one line."""
    said = str(error).replace("<non-verbose/>", "").partition("<backtrace>")[0]
    return " ".join(said.split())[:200]


def _library() -> Any:
    try:
        import llguidance
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"grammar, json_schema, regex and choices need llguidance: {install('constrained')}"
        ) from error
    return llguidance
