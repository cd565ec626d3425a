"""``tokenizer.json``: looked through before the tokenizers library sees it, and the library's failures as ours.

The library trusts its files: some settings end the process, some panic (an exception that is none:
``PanicException`` is no ``Exception``), one makes every encoding another by chance. What
StarCoder2's tokenizers have, their fine-tunes' too, is let through; nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from sc2onnx.bundle import records
from sc2onnx.errors import TokenizerError
from sc2onnx.manifest import plain_text

MOST_BYTES: Final = 32 << 20
"""Bytes that the file may have. StarCoder2's has 2 MB."""

MOST_TOKENS: Final = 1 << 21
"""Ids are below this, forty times StarCoder2's vocabulary."""

_LONGEST: Final = 1000
"""Characters that a special token or a pattern may have."""

_KNOWN: Final[Mapping[str, frozenset[str]]] = {
    "normalizer": frozenset({"NFC", "NFD", "NFKC", "NFKD", "Sequence"}),
    "pre_tokenizer": frozenset({"ByteLevel", "Digits", "Split", "Sequence"}),
    "post_processor": frozenset({"ByteLevel", "TemplateProcessing", "Sequence"}),
    "decoder": frozenset({"ByteLevel"}),
}
"""Types of the parts of a tokenizer, in a sequence too."""

_MOST_PARTS: Final = 16
"""Parts one after the other, pieces of a template, ids of a special token in it. StarCoder2's tokenizers have three at most."""

_ONCE: Final = frozenset({"ByteLevel", "TemplateProcessing"})
"""What multiplies a text or its tokens when it is repeated: each byte of a character beyond ASCII becomes a character of two."""

_PARTS: Final = ("normalizers", "pretokenizers", "processors", "decoders")


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a file, which neither truncates nor pads. Raises :class:`TokenizerError`."""
    try:
        data = records.contents(path, MOST_BYTES)
        raw = records.parse(data)
        _check(raw)
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read ({error.strerror}): correct its permissions, or export the bundle again") from error
    except ValueError as error:
        raise TokenizerError(
            f"{path} is not a tokenizer of StarCoder2 ({error}): export the bundle again, or use token ids instead of text"
        ) from error
    if raw.get("truncation") is not None or raw.get("padding") is not None:
        data = json.dumps({**raw, "truncation": None, "padding": None}).encode()
    with guarded(f"{path} is not a tokenizer that tokenizers can read"):
        return Tokenizer.from_buffer(data)  # what was looked through, and from no path, which tokenizers takes for UTF-8


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Turn what the library raises, panics too, into a :class:`TokenizerError` that begins with ``what``.

    :class:`TypeError` is left to the caller: it says that an argument was wrong.
    """
    try:
        yield
    except TypeError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        said = " ".join(str(error).split())[:200]
        raise TokenizerError(f"{what} ({said}): export the bundle again, or use token ids instead of text") from error


def _check(raw: Mapping[str, Any]) -> None:
    """Raise :class:`ValueError` for what the library should not see."""
    for part, known in _KNOWN.items():
        kinds = list(_check_part(part, raw.get(part), known))
        if len(kinds) > _MOST_PARTS or any(kinds.count(kind) > 1 for kind in _ONCE):
            raise ValueError(
                f"its {part.replace('_', '-')} has {len(kinds)} parts, expected at most {_MOST_PARTS}, and {' and '.join(sorted(_ONCE))} once"
            )
    model = raw.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        found = model.get("type") if isinstance(model, dict) else model
        raise ValueError(f"its model is {_short(found)}, expected 'BPE'")
    if model.get("dropout"):
        raise ValueError(f"its dropout is {_short(model['dropout'])}, expected none: the same text would be other tokens each time")
    if any(model.get(name) for name in ("continuing_subword_prefix", "end_of_word_suffix")):
        raise ValueError("its pieces have a prefix or a suffix, expected none as at the level of bytes")
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise ValueError("it has no vocabulary")
    _check_ids(vocabulary.items())
    if len(set(vocabulary.values())) < len(vocabulary):
        raise ValueError("two tokens of its vocabulary have the same id")
    added = raw.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) and isinstance(token.get("content"), str) for token in added):
        raise ValueError("its added_tokens are not a list of tokens")
    _check_ids([(token["content"], token.get("id")) for token in added])
    if long := [token["content"] for token in added if not 0 < len(token["content"]) <= _LONGEST]:
        raise ValueError(f"the special token {_short(long[0])} has {len(long[0]):,} characters, expected 1 to {_LONGEST:,}")


def _check_ids(tokens: Any) -> None:
    for token, number in tokens:
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < MOST_TOKENS:
            raise ValueError(f"the token {_short(token)} has the id {_short(number)}, expected 0 to {MOST_TOKENS - 1}")


def _check_part(part: str, value: Any, known: frozenset[str]) -> Iterator[str]:
    """The types of a part and of what is in it, each checked when it comes."""
    if value is None:
        return
    if not isinstance(value, dict) or not isinstance(value.get("type"), str) or value["type"] not in known:
        found = value.get("type") if isinstance(value, dict) else value
        raise ValueError(f"it has the {part.replace('_', '-')} {plain_text(str(found))[:80]}, expected {' or '.join(sorted(known))}")
    pattern = value.get("pattern")
    if isinstance(pattern, dict) and any(len(str(text)) > _LONGEST for text in pattern.values()):
        raise ValueError(f"its {part.replace('_', '-')} has a pattern of more than {_LONGEST:,} characters")
    if value["type"] == "TemplateProcessing":
        _check_template(value)
    yield value["type"]
    for name in _PARTS:
        inner = value.get(name, [])
        for item in inner if isinstance(inner, list) else [inner]:
            yield from _check_part(part, item, known)


def _check_template(value: Mapping[str, Any]) -> None:
    """A template puts a few special tokens around a text, which it repeats as often as it says."""
    for name in ("single", "pair"):
        pieces = value.get(name)
        if not isinstance(pieces, list) or len(pieces) > _MOST_PARTS:
            raise ValueError(f"its template {name} is {_short(pieces)}, expected a list of at most {_MOST_PARTS} pieces")
    repeated = sum("Sequence" in piece for piece in value["single"] if isinstance(piece, dict))
    if repeated > 1:
        raise ValueError(f"its template has the text {repeated} times, expected once")
    tokens = value.get("special_tokens")
    tokens = tokens if isinstance(tokens, dict) else {}
    for name, token in tokens.items():
        ids = token.get("ids") if isinstance(token, dict) else None
        if not isinstance(ids, list) or len(ids) > _MOST_PARTS:
            raise ValueError(f"its template has the special token {_short(name)} with {_short(ids)}, expected at most {_MOST_PARTS} ids")


def _short(value: Any) -> str:
    return repr(value)[:80]
