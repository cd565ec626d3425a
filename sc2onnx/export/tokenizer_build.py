"""``vocab.json`` and ``merges.txt`` -> ``tokenizer.json``, for checkpoints of older trainers.

StarCoder2's is a byte-level BPE as GPT-2's, behind a split of numbers into their digits. That split
is not written in the two files, but can be told from them: a vocabulary that was trained behind it
has no token with a digit and anything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from sc2onnx.errors import CorruptCheckpointError
from sc2onnx.export.end_of_text import named_ends
from sc2onnx.export.shown import brief
from sc2onnx.export.small_files import (
    MERGES_FILE,
    SPECIAL_TOKENS_FILE,
    TOKENIZER_CONFIG_FILE,
    VOCAB_FILE,
    SmallFiles,
)
from sc2onnx.export.tokenizer import added_tokens, token_text, tokenizers_errors

ORIGIN: Final = f"{VOCAB_FILE} with {MERGES_FILE}"

_REMEDY: Final = (
    "download it again, or put tokenizer.json of the model that this one was tuned from there"
)
_ROLES: Final = "bos_token eos_token unk_token sep_token pad_token cls_token mask_token".split()
_MARKUP: Final = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")
"""What a special token looks like."""


def build_tokenizer(files: SmallFiles) -> bytes:
    """The bytes of the ``tokenizer.json`` that ``vocab.json`` and ``merges.txt`` make.

    Special tokens are those that the other files declare, and markup that no merge makes. Raises
    :class:`CorruptCheckpointError` if the files do not belong together.
    """
    vocab = _vocab(files)
    merges = list(_merges(files.contents[MERGES_FILE]))
    made = {first + second for first, second in merges}
    special = {**_unmade(vocab, made), **_declared(files, vocab)}
    added = {
        text: number for tokens in added_tokens(files).values() for number, text in tokens.items()
    }
    _check_made(vocab, made, {*special, *added})
    with tokenizers_errors(ORIGIN):
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
        tokenizer.pre_tokenizer = _pre_tokenizer(made, files)
        tokenizer.decoder = decoders.ByteLevel()
        for text in sorted(
            {*special, *added}, key=lambda text: added.get(text, vocab.get(text, 0))
        ):
            token = AddedToken(text, normalized=False, special=text in special)
            tokenizer.add_special_tokens([token]) if token.special else tokenizer.add_tokens(
                [token]
            )
        for text, number in added.items():
            if (found := tokenizer.token_to_id(text)) != number:
                raise CorruptCheckpointError(
                    f"the added token {brief(text)} would have the id {found}, expected {number} "
                    f"as its file says: {_REMEDY}"
                )
        return str(tokenizer.to_str(pretty=True)).encode()


def _vocab(files: SmallFiles) -> dict[str, int]:
    vocab = files.json(VOCAB_FILE)
    for text, number in vocab.items():
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 32:
            raise CorruptCheckpointError(
                f"{VOCAB_FILE}: the id of {brief(text)} is {brief(number)}, expected "
                f"a token id: {_REMEDY}"
            )
    if len(set(vocab.values())) < len(vocab):
        raise CorruptCheckpointError(
            f"{VOCAB_FILE} has an id twice, expected one token each: {_REMEDY}"
        )
    return vocab


def _merges(data: bytes) -> Iterator[tuple[str, str]]:
    """Pairs of tokens, one of a line; the first line may be a comment (``#version: 0.2``)."""
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise CorruptCheckpointError(f"{MERGES_FILE} is not text in UTF-8: {_REMEDY}") from error
    for number, line in enumerate(lines, start=1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise CorruptCheckpointError(
                f"{MERGES_FILE}, line {number}: {brief(line)}, expected two tokens: {_REMEDY}"
            )
        yield parts[0], parts[1]


def _unmade(vocab: Mapping[str, int], made: set[str]) -> dict[str, int]:
    """Markup of several characters that no merge makes."""
    return {
        text: number
        for text, number in vocab.items()
        if len(text) > 1 and text not in made and _MARKUP.fullmatch(text)
    }


def _declared(files: SmallFiles, vocab: Mapping[str, int]) -> dict[str, int]:
    """Special tokens that files beside the vocabulary name; those without an id come last."""
    texts: list[str | None] = list(named_ends(files).values())
    for name in (TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE):
        settings = files.json(name)
        texts += [token_text(settings.get(role)) for role in _ROLES]
        further = settings.get("additional_special_tokens") or settings.get("extra_special_tokens")
        texts += map(token_text, further) if isinstance(further, list) else []
    return {text: vocab.get(text, 1 << 32) for text in texts if text}


def _check_made(vocab: Mapping[str, int], made: set[str], special: set[str]) -> None:
    """Every token is a character, made by a merge, or special: else the
    merges are not all there.
    """
    lost = sorted(text for text in vocab if len(text) > 1 and text not in made | special)
    if lost:
        raise CorruptCheckpointError(
            f"{MERGES_FILE} makes none of {len(lost):,} tokens of {VOCAB_FILE} (for instance "
            f"{brief(lost[0])}), expected all of them, so it is cut or of another model: {_REMEDY}"
        )


def _pre_tokenizer(made: set[str], files: SmallFiles) -> pre_tokenizers.PreTokenizer:
    prefix = files.json(TOKENIZER_CONFIG_FILE).get("add_prefix_space") is True
    steps: Sequence[pre_tokenizers.PreTokenizer] = [
        pre_tokenizers.ByteLevel(add_prefix_space=prefix, trim_offsets=True, use_regex=True)
    ]
    if not any(re.search(r"[0-9]", text) for text in made):
        steps = [pre_tokenizers.Digits(individual_digits=True), *steps]
        return pre_tokenizers.Sequence(list(steps))
    return steps[0]
