"""``tokenizer.json``, opened at export: whether it is a tokenizer, and one that fits the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import log2
from typing import Any, Final

import tokenizers
from tokenizers import Tokenizer

from sc2onnx.bundle.contract import TOKENIZER_FILE
from sc2onnx.bundle.tokenizer_parts import check_frame, check_tokenizer
from sc2onnx.errors import CorruptCheckpointError, Sc2onnxError
from sc2onnx.export.shown import brief
from sc2onnx.export.small_files import (
    ADDED_TOKENS_FILE,
    TOKENIZER_CONFIG_FILE,
    SmallFiles,
    parse,
)

_SAMPLE: Final = "def f(a):\n    return 1  # \N{SNOWMAN}\n"
"""Some text, to see that text becomes tokens at all."""

_MOST_GROWTH: Final = 1000
"""Characters that one may become; a chain of replacements would fill any memory.
Tokenizers in use make one or two.
"""

_SHOWN: Final = 5
"""Tokens that a message names."""


def open_tokenizer(data: bytes, origin: str = TOKENIZER_FILE) -> Tokenizer:
    """The tokenizer in the bytes of a ``tokenizer.json``, without truncation and padding.

    ``origin``: the file to name in errors. Raises :class:`CorruptCheckpointError` for what is
    no tokenizer of the library's, a panic of the library included.
    """
    raw = parse(origin, data)
    if not isinstance(raw.get("model"), dict):
        raise CorruptCheckpointError(
            f"{origin} holds no tokenizer (no model in {brief(sorted(raw))}), expected what "
            "transformers' save_pretrained writes: download it again"
        )
    if _growth(raw.get("normalizer")) + _growth(raw.get("decoder")) > log2(_MOST_GROWTH):
        raise CorruptCheckpointError(
            f"{origin} has replacements that make more than {_MOST_GROWTH} characters of one, "
            "expected one or two: do not trust this checkpoint"
        )
    try:
        check_frame(raw.get("post_processor"))
    except ValueError as error:
        raise CorruptCheckpointError(
            f"{origin} would fill the memory ({error}): do not trust this checkpoint"
        ) from error
    with tokenizers_errors(origin):
        tokenizer = Tokenizer.from_buffer(data)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.decode(tokenizer.encode(_SAMPLE).ids)
    return tokenizer


def _growth(step: Any) -> float:
    """Binary logarithm of the characters that replacements, one behind the other, may make of one.

    For instance 3: a step that puts "ab" in its place, behind one that puts "abcd".
    """
    if isinstance(step, list):
        return sum(map(_growth, step))
    if not isinstance(step, dict):
        return 0.0
    texts = [step[key] for key in ("content", "prepend") if isinstance(step.get(key), str)]
    return sum(log2(max(1, len(text))) for text in texts) + sum(map(_growth, step.values()))


@contextmanager
def tokenizers_errors(origin: str) -> Iterator[None]:
    """Whatever the library raises inside is a :class:`CorruptCheckpointError` about ``origin``."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, Sc2onnxError):
        raise
    except BaseException as error:  # a panic of its Rust code is no Exception
        reason = " ".join(str(error).split())[:300]
        raise CorruptCheckpointError(
            f"{origin} is not a tokenizer that tokenizers {tokenizers.__version__} can use "
            f"({reason}): download it again, or update tokenizers"
        ) from error


def kind_doubts(tokenizer: Tokenizer, data: bytes) -> Iterator[str]:
    """What keeps sc2onnx from turning text into tokens and back, in a sentence.

    ``data``: the ``tokenizer.json`` that ``tokenizer`` was made of.
    """
    decoder = type(tokenizer.decoder).__name__
    if decoder != "ByteLevel":
        found = f"is of another kind ({type(tokenizer.model).__name__}, decoder {decoder})"
    elif not tokenizer.encode(_SAMPLE, add_special_tokens=False).ids:
        found = "has no tokens for text"
    elif reason := _refusal(data):
        found = f"is none that sc2onnx can run ({reason})"
    else:
        return
    yield (
        f"{TOKENIZER_FILE} {found}, expected byte-level BPE as in StarCoder2: the bundle will take "
        "and give token ids, not text; put the tokenizer that the model was trained with there"
    )


def _refusal(data: bytes) -> str:
    """Why the runtime will refuse a ``tokenizer.json``; empty if it will not."""
    try:
        check_tokenizer(parse(TOKENIZER_FILE, data))
    except ValueError as error:
        return str(error)
    return ""


def size_doubts(tokenizer: Tokenizer, vocab_size: int) -> Iterator[str]:
    """Which tokens have no row in the embedding, in a sentence."""
    beyond = {
        number: text
        for text, number in tokenizer.get_vocab(with_added_tokens=True).items()
        if number >= vocab_size
    }
    for number in tokenizer.encode(_SAMPLE).ids:  # a post-processor has ids of its own
        if number >= vocab_size:
            beyond.setdefault(number, "")
    if beyond:
        yield (
            f"{TOKENIZER_FILE} has ids up to {max(beyond)}, the embedding {vocab_size} rows, so "
            f"{_tokens(beyond)} cannot be used: with transformers, "
            "model.resize_token_embeddings(len(tokenizer)), save_pretrained, and export again; "
            "or remove them from the tokenizer"
        )


def added_doubts(tokenizer: Tokenizer, files: SmallFiles) -> Iterator[str]:
    """Which tokens other files add that ``tokenizer.json`` does not have, in a sentence each."""
    for name, added in added_tokens(files).items():
        missing = {
            number: text for number, text in added.items() if tokenizer.token_to_id(text) != number
        }
        if missing:
            yield (
                f"{name} adds {_tokens(missing)}, which {TOKENIZER_FILE} does not have: they are "
                "read as plain text; with transformers, load the tokenizer, save_pretrained, and "
                "export again"
            )


def added_tokens(files: SmallFiles) -> dict[str, dict[int, str]]:
    """Tokens by id that files beside the tokenizer declare. Raises CorruptCheckpointError."""
    decoder = files.json(TOKENIZER_CONFIG_FILE).get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise _malformed(TOKENIZER_CONFIG_FILE, "added_tokens_decoder", decoder)
    declared = {
        _number(TOKENIZER_CONFIG_FILE, key): _content(TOKENIZER_CONFIG_FILE, token)
        for key, token in decoder.items()
    }
    added = {
        _number(ADDED_TOKENS_FILE, number): text
        for text, number in files.json(ADDED_TOKENS_FILE).items()
    }
    return {TOKENIZER_CONFIG_FILE: declared, ADDED_TOKENS_FILE: added}


def token_text(value: Any) -> str | None:
    """The text of a token that a file of settings names: a string, or an object with one."""
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else None


def _content(name: str, token: Any) -> str:
    if (text := token_text(token)) is None:
        raise _malformed(name, "a token", token)
    return text


def _number(name: str, value: Any) -> int:
    """An id, which is text where it is a key."""
    number = (
        int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 11 else value
    )
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 32:
        raise _malformed(name, "the id of a token", value)
    return number


def _malformed(name: str, what: str, value: Any) -> CorruptCheckpointError:
    return CorruptCheckpointError(
        f"{name}: {what} is {brief(value)}, expected what save_pretrained writes: download it again"
    )


def _tokens(tokens: Mapping[int, str]) -> str:
    """``'<a>' (4096), '<b>' (4097) and 3 more``."""
    shown = (f"{brief(tokens[number])} ({number})" for number in sorted(tokens)[:_SHOWN])
    more = len(tokens) - _SHOWN
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
