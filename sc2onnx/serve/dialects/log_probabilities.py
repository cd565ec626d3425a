"""Log probabilities in columns by token, as OpenAI's completions have them.

Tokens are texts of their own here: a character that is cut in two is no text, and shown as U+FFFD.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from sc2onnx.runtime.results import Completion, Likeliest, Piece, Token
from sc2onnx.runtime.text.codec import Codec

Columns = dict[str, list[Any] | None]
"""``tokens``, ``token_logprobs``, ``top_logprobs`` and ``text_offset``, in the choice's text."""


def columns(given: Completion | Piece, codec: Codec, offset: int) -> Columns | None:
    """Those of generated tokens, whose text begins at ``offset``; None
    where none were asked for.
    """
    if given.logprobs is None:
        return None
    tops = (
        None if given.top_logprobs is None else [_tops(each, codec) for each in given.top_logprobs]
    )
    return _columns(given.tokens, list(given.logprobs), tops, codec, offset)


def prompt_columns(prompt: Sequence[Token], codec: Codec) -> Columns:
    """Those of an echoed prompt; its first token has none."""
    tops: list[dict[str, float] | None] | None = None
    if any(token.likeliest for token in prompt):
        tops = [_tops(token.likeliest, codec) if token.likeliest else None for token in prompt]
    return _columns(
        [token.id for token in prompt], [token.logprob for token in prompt], tops, codec, 0
    )


def in_rows(given: Completion | Piece, codec: Codec) -> dict[str, Any] | None:
    """Those of generated tokens as OpenAI's chats have them, a row for each token; None where none
    were asked for.
    """
    if given.logprobs is None:
        return None
    tops = given.top_logprobs or ((),) * len(given.tokens)
    rows = [
        {
            **_row(token, logprob, codec),
            "top_logprobs": [_row(*each, codec) for each in likeliest],
        }
        for token, logprob, likeliest in zip(given.tokens, given.logprobs, tops, strict=True)
    ]
    return {"content": rows, "refusal": None}


def _row(token: int, logprob: float, codec: Codec) -> dict[str, Any]:
    data = codec.token_bytes(token)
    return {"token": _text(codec, token), "logprob": logprob, "bytes": list(data)}


def joined(first: Columns, second: Columns) -> Columns:
    """Both, one after the other."""
    return {
        name: None if column is None else column + (second[name] or [])
        for name, column in first.items()
    }


def _columns(
    tokens: Sequence[int],
    logprobs: Sequence[float | None],
    tops: Sequence[dict[str, float] | None] | None,
    codec: Codec,
    offset: int,
) -> Columns:
    texts = [_text(codec, token) for token in tokens]
    return {
        "tokens": texts,
        "token_logprobs": list(logprobs),
        "top_logprobs": None if tops is None else list(tops),
        "text_offset": list(accumulate(map(len, texts), initial=offset))[:-1],
    }


def _tops(likeliest: Likeliest, codec: Codec) -> dict[str, float]:
    return {_text(codec, token): value for token, value in likeliest}


def _text(codec: Codec, token: int) -> str:
    return codec.token_bytes(token).decode("utf-8", errors="replace")
