"""Models that fill holes: prompts, where an answer ends, and how right it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from sc2onnx.evaluate.infill import Similarity, visible
from sc2onnx.evaluate.source import LogitSource
from sc2onnx.evaluate.suite.hole import Hole
from sc2onnx.evaluate.suite.scores import Answer
from sc2onnx.runtime.text.code import CodeReader, Syntax
from sc2onnx.runtime.text.codec import Codec
from sc2onnx.runtime.text.detokenize import Detokenizer
from sc2onnx.runtime.text.endings import Ending, Rule, ending
from sc2onnx.runtime.text.fim import FimOrder, around_cursor, fim_prompt
from sc2onnx.runtime.text.lines import Lines

_SPECIAL: Final = 8
"""Tokens kept free beside the code: those that mark the parts, and what cutting may add."""


@dataclass(frozen=True, slots=True)
class Prompting:
    """How a hole becomes a prompt. ``length``: tokens of the longest; ``context``: tokens of prompt
    and answer; ``stops``: tokens that end code.
    """

    codec: Codec
    length: int
    context: int
    order: FimOrder
    stops: frozenset[int]

    def limit(self, hole: Hole) -> int:
        """The most tokens of an answer: twice the truth's and 16 more."""
        return min(2 * len(self.codec.encode(hole.truth, special=False)) + 16, self.context // 4)

    def around(self, hole: Hole) -> tuple[str, str]:
        """The code before and after the hole that fits."""
        budget = max(16, min(self.length, self.context - self.limit(hole)) - _SPECIAL)
        return around_cursor(self.codec, hole.prefix, hole.suffix, budget)

    def tokens(self, hole: Hole) -> list[int]:
        """The prompt as token ids."""
        return fim_prompt(self.codec, *self.around(hole), order=self.order)


class Answering(Protocol):
    """A model that fills holes."""

    def pieces(self, hole: Hole) -> Iterable[str]:
        """Greedy text in pieces, up to a token that ends code or the limit."""


class SourceAnswers:
    """Answers of whatever gives greedy tokens: a bundle, or torch."""

    def __init__(self, source: LogitSource, prompting: Prompting) -> None:
        self._source, self._prompting = source, prompting

    def pieces(self, hole: Hole) -> Iterable[str]:
        """See :class:`Answering`."""
        asked = self._prompting
        prompt = np.array(asked.tokens(hole), dtype=np.int64)
        with closing(self._source.continuation(prompt, asked.limit(hole))) as tokens:
            yield from texts(tokens, asked)


def texts(tokens: Iterable[int], asked: Prompting) -> Iterable[str]:
    """The text of tokens, up to one that ends code."""
    detokenizer = Detokenizer(asked.codec)
    for token in tokens:
        if token in asked.stops:
            break
        yield detokenizer.push(token)
    yield detokenizer.flush()


def filled(model: Answering, hole: Hole) -> str:
    """What the model writes into a hole, up to where an editor would end it."""
    scanner, text = ending_of(hole).scanner(), ""
    pieces = model.pieces(hole)
    for piece in pieces:
        text += scanner.push(piece)
        if scanner.found:
            break
    if (close := getattr(pieces, "close", None)) is not None:
        close()
    return text + scanner.flush()


def ending_of(hole: Hole) -> Rule | WholeExpression:
    """Where an answer to a hole ends."""
    if hole.task in ("expressions", "programs"):
        return WholeExpression()
    lines = Lines(most=2) if hole.truth[:1].isspace() else Lines.line()
    ends: Ending | Lines = lines if hole.task == "lines" else "block"
    rule = ending(ends, hole.prefix, hole.suffix, "hole.py")
    assert rule is not None
    return rule


@dataclass(frozen=True, slots=True)
class WholeExpression:
    """A text ends before what ends an expression: a comma, a colon, a comment or a line outside of
    brackets, or a bracket that it did not open.
    """

    def scanner(self) -> ExpressionScanner:
        """What finds the end."""
        return ExpressionScanner()


class ExpressionScanner:
    """Text in pieces, and where its expression ends."""

    def __init__(self) -> None:
        self.found, self._some = False, False
        self._reader = CodeReader(Syntax())

    def push(self, text: str) -> str:
        """Text that belongs to it for certain. After :attr:`found`, nothing more."""
        out = ""
        for character in text:
            outside = not self._reader.open and self._reader.inside == ""
            if self.found or (outside and self._ends(character)):
                self.found = True
                break
            self._reader.push(character)
            self._some = self._some or not character.isspace()
            out += character
        return out

    def flush(self) -> str:
        """Nothing: what it has was given."""
        return ""

    def _ends(self, character: str) -> bool:
        return character in ",:#;)]}" or (character == "\n" and self._some)


def marked(
    hole: Hole, text: str, similar: Similarity, passes: Callable[[Hole, str], bool] | None
) -> Answer:
    """How right an answer is. ``passes``: runs it with the tests of its hole."""
    truth, given = _shown(hole, hole.truth), _shown(hole, text)
    passed = passes(hole, text) if passes is not None and hole.tests is not None else None
    return Answer(
        hole.task, hole.file, hole.truth, text, truth == given, similar(truth, given), passed
    )


def _shown(hole: Hole, text: str) -> str:
    """What counts of a text: its indentation where it is whole lines, and no space around it."""
    seen = visible(text).strip("\r\n")
    return seen if hole.task in ("lines", "blocks") else seen.strip()
