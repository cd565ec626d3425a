"""Fill-in-the-middle, measured: what a model writes greedily between a prefix and a suffix
against what stood there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sc2onnx.errors import MissingDependencyError
from sc2onnx.evaluate.progress import Progress
from sc2onnx.evaluate.report import Answer, InfillScore
from sc2onnx.evaluate.source import LogitSource
from sc2onnx.evaluate.spans import Span
from sc2onnx.hints import install
from sc2onnx.runtime.text.codec import Codec
from sc2onnx.runtime.text.detokenize import Detokenizer
from sc2onnx.runtime.text.fim import FimOrder, around_cursor, fim_prompt

Similarity = Callable[[str, str], float]

_SPECIAL: Final = 8
"""Tokens kept free beside the code: the four that mark the parts, and what
cutting a text in two may add.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A prompt (n,), the span it asks for, and the most tokens an answer may take:
    twice the truth's and 16 more.
    """

    prompt: npt.NDArray[np.int64]
    span: Span
    limit: int


def edit_similarity() -> Similarity:
    """1 - Levenshtein distance / length of the longer text, from 0 to 1.
    Raises :class:`MissingDependencyError`.
    """
    try:
        from rapidfuzz.distance import Levenshtein
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"measuring infilling needs the package {error.name}: {install('evaluate')}"
        ) from error
    return Levenshtein.normalized_similarity


def questions(
    spans: Sequence[Span], codec: Codec, length: int, context: int, order: FimOrder = "psm"
) -> list[Question]:
    """Prompts of up to ``length`` tokens, less where the context needs room for the answer:
    the file around the span.
    """
    return [_question(span, codec, length, context, order) for span in spans]


def _question(span: Span, codec: Codec, length: int, context: int, order: FimOrder) -> Question:
    limit = min(2 * len(codec.encode(span.truth, special=False)) + 16, context // 4)
    budget = max(16, min(length, context - limit) - _SPECIAL)
    prefix, suffix = around_cursor(codec, span.prefix, span.suffix, budget)
    return Question(
        np.array(fim_prompt(codec, prefix, suffix, order=order), dtype=np.int64), span, limit
    )


def score(
    source: LogitSource,
    asked: Sequence[Question],
    codec: Codec,
    stops: frozenset[int],
    progress: Progress,
) -> InfillScore:
    """Greedy answers of one model. ``stops``: tokens that end one."""
    similar = edit_similarity()
    answers = []
    for question in asked:
        answers.append(_mark(question.span, complete(source, question, codec, stops), similar))
        progress.advance(1)
    exact, similarity = (
        float(np.mean([getattr(answer, name) for answer in answers]))
        for name in ("exact", "similarity")
    )
    return InfillScore(len(answers), exact, similarity, tuple(answers))


def complete(source: LogitSource, question: Question, codec: Codec, stops: frozenset[int]) -> str:
    """What the model writes, up to a token of ``stops``, the limit, or as
    many lines as the truth has.
    """
    detokenizer, text = Detokenizer(codec), ""
    with closing(source.continuation(question.prompt, question.limit)) as tokens:
        for token in tokens:
            if token in stops:
                break
            text += detokenizer.push(token)
            if text.count("\n") >= question.span.lines:
                break
    return "\n".join((text + detokenizer.flush()).split("\n")[: question.span.lines])


def _mark(span: Span, completion: str, similar: Similarity) -> Answer:
    expected, given = visible(span.truth), visible(completion)
    return Answer(
        span.file, span.kind, span.truth, completion, expected == given, similar(expected, given)
    )


def visible(text: str) -> str:
    """Without the blanks that end lines, which nobody sees."""
    return "\n".join(line.rstrip() for line in text.split("\n"))
