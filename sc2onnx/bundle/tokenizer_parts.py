"""What the runtime takes as ``tokenizer.json``, and the exporter therefore
tells of: its parts, bounded.

The tokenizers library trusts its files: some settings end the process, some panic, one makes every
encoding another by chance, one repeats a text without end. What StarCoder2's tokenizers have, their
fine-tunes' too, is let through; nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sc2onnx.messages import printable

MOST_TOKENS: Final = 1 << 21
"""Ids are below this, forty times StarCoder2's vocabulary."""

_LONGEST: Final = 1000
"""Characters that a special token or a pattern may have."""

_MOST_PIECES: Final = 64
"""Pieces that a post-processor may put around a text, and ids of them all."""

_KNOWN: Final[Mapping[str, frozenset[str]]] = {
    "normalizer": frozenset({"NFC", "NFD", "NFKC", "NFKD", "Sequence"}),
    "pre_tokenizer": frozenset({"ByteLevel", "Digits", "Split", "Sequence"}),
    "post_processor": frozenset({"ByteLevel", "TemplateProcessing", "Sequence"}),
    "decoder": frozenset({"ByteLevel"}),
}
"""Types of the parts of a tokenizer, in a sequence too."""

_MOST_PARTS: Final = 16
"""Parts one after the other. StarCoder2's tokenizers have three at most."""

_ONCE: Final = frozenset({"ByteLevel", "TemplateProcessing"})
"""What multiplies a text or its tokens when it is repeated: each byte of a character beyond ASCII
becomes a character of two."""

_PARTS: Final = ("normalizers", "pretokenizers", "processors", "decoders")


def check_tokenizer(raw: Mapping[str, Any]) -> None:
    """Raise :class:`ValueError`, with a clause about it, for what the library should not see.

    ``raw``: the file, parsed.
    """
    for part, known in _KNOWN.items():
        kinds = list(_check_part(part, raw.get(part), known))
        if len(kinds) > _MOST_PARTS or any(kinds.count(kind) > 1 for kind in _ONCE):
            limits = f"at most {_MOST_PARTS}, and {' and '.join(sorted(_ONCE))} once"
            raise ValueError(
                f"its {part.replace('_', '-')} has {len(kinds)} parts, expected {limits}"
            )
    model = raw.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        found = model.get("type") if isinstance(model, dict) else model
        raise ValueError(f"its model is {_short(found)}, expected 'BPE'")
    if model.get("dropout"):
        raise ValueError(
            f"its dropout is {_short(model['dropout'])}, expected none: the same text would be "
            "other tokens each time"
        )
    if any(model.get(name) for name in ("continuing_subword_prefix", "end_of_word_suffix")):
        raise ValueError(
            "its pieces have a prefix or a suffix, expected none as at the level of bytes"
        )
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise ValueError("it has no vocabulary")
    _check_ids(vocabulary.items())
    if len(set(vocabulary.values())) < len(vocabulary):
        raise ValueError("two tokens of its vocabulary have the same id")
    added = raw.get("added_tokens") or []
    if not isinstance(added, list) or not all(
        isinstance(token, dict) and isinstance(token.get("content"), str) for token in added
    ):
        raise ValueError("its added_tokens are not a list of tokens")
    _check_ids([(token["content"], token.get("id")) for token in added])
    if long := [token["content"] for token in added if not 0 < len(token["content"]) <= _LONGEST]:
        raise ValueError(
            f"the special token {_short(long[0])} has {len(long[0]):,} characters, "
            f"expected 1 to {_LONGEST:,}"
        )


def _check_ids(tokens: Any) -> None:
    for token, number in tokens:
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < MOST_TOKENS:
            raise ValueError(
                f"the token {_short(token)} has the id {_short(number)}, expected "
                f"0 to {MOST_TOKENS - 1}"
            )


def _check_part(part: str, value: Any, known: frozenset[str]) -> Iterator[str]:
    """The types of a part and of what is in it, each checked when it comes."""
    if value is None:
        return
    found = value.get("type") if isinstance(value, dict) else value
    if not isinstance(value, dict) or not isinstance(found, str) or found not in known:
        raise ValueError(
            f"it has the {part.replace('_', '-')} {printable(str(found))[:80]}, expected "
            f"{' or '.join(sorted(known))}"
        )
    pattern = value.get("pattern")
    if isinstance(pattern, dict) and any(len(str(text)) > _LONGEST for text in pattern.values()):
        raise ValueError(
            f"its {part.replace('_', '-')} has a pattern of more than {_LONGEST:,} characters"
        )
    if part == "post_processor":
        check_frame(value)
    yield found
    for name in _PARTS:
        inner = value.get(name, [])
        for item in inner if isinstance(inner, list) else [inner]:
            yield from _check_part(part, item, known)


def check_frame(value: Any) -> None:
    """Raise :class:`ValueError` for a post-processor that repeats the text, or adds a lot to it.

    ``value``: what ``post_processor`` is in the file; the steps of a sequence are looked at too.
    """
    if not isinstance(value, dict):
        return
    steps = value.get("processors")
    for step in steps if isinstance(steps, list) else []:
        check_frame(step)
    single, pair, special = (
        value.get("single") or [],
        value.get("pair") or [],
        value.get("special_tokens") or {},
    )
    if not isinstance(single, list) or not isinstance(pair, list) or not isinstance(special, dict):
        return  # of another form, which the library says more of
    texts = sum("Sequence" in piece for piece in single if isinstance(piece, dict))
    ids = [
        token["ids"]
        for token in special.values()
        if isinstance(token, dict) and isinstance(token.get("ids"), list)
    ]
    most = max(len(single), len(pair), sum(map(len, ids)))
    if texts > 1 or most > _MOST_PIECES:
        raise ValueError(
            f"its post-processor has the text {texts:,} times among {most:,} pieces, expected once "
            f"and at most {_MOST_PIECES}"
        )


def _short(value: Any) -> str:
    return repr(value)[:80]
