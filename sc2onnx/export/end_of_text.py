"""Where a text ends: the tokens that config.json, generation_config.json and the tokenizer name.

Trainers forget one or the other, so a bundle stops at each of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from sc2onnx.bundle.contract import TOKENIZER_FILE
from sc2onnx.export.shown import brief
from sc2onnx.export.small_files import SPECIAL_TOKENS_FILE, TOKENIZER_CONFIG_FILE, SmallFiles
from sc2onnx.export.tokenizer import token_text


def named_ends(files: SmallFiles) -> dict[str, str]:
    """File -> the ``eos_token`` that it names, for those that name one."""
    named = {
        name: token_text(files.json(name).get("eos_token"))
        for name in (TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE)
    }
    return {name: text for name, text in named.items() if text}


def tokenizer_ends(tokenizer: Tokenizer, named: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """File -> the id of the token that it names, for those that the tokenizer has."""
    ids = {name: tokenizer.token_to_id(text) for name, text in named.items()}
    return {name: (number,) for name, number in ids.items() if number is not None}


def absent_doubts(tokenizer: Tokenizer, named: Mapping[str, str]) -> Iterator[str]:
    """Which named tokens the tokenizer lacks, in a sentence each."""
    for name, text in named.items():
        if tokenizer.token_to_id(text) is None:
            yield (
                f"{name}: eos_token is {brief(text)}, which {TOKENIZER_FILE} does not have, so "
                "nothing ends with it: correct one of them"
            )


def united(
    ends: Mapping[str, Sequence[int]], vocab_size: int
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """All ids that some file names and the model can give, in the order of the files, and doubts.

    ``ends``: ids by the file that names them, those of a file that names none left out or empty.
    For instance ``{"a": [0], "b": [0, 7], "c": [99]}`` and 9 tokens give ``(0, 7)`` and two doubts:
    99 is none of 9 tokens, and the files do not agree.
    """
    doubts = []
    inside: dict[str, tuple[int, ...]] = {}
    for name, ids in ends.items():
        if outside := [number for number in ids if number >= vocab_size]:
            doubts.append(
                f"{name}: the end-of-text {brief(outside)} (eos_token_id) is outside the "
                f"vocabulary of {vocab_size} tokens, so it never comes and is left out: correct it"
            )
        if kept := tuple(number for number in ids if number < vocab_size):
            inside[name] = kept
    union = tuple(dict.fromkeys(number for ids in inside.values() for number in ids))
    if union and set(next(iter(inside.values()))) != set(union):
        said = ", ".join(f"{_numbers(ids)} in {name}" for name, ids in inside.items())
        doubts.append(
            f"the end-of-text (eos) is {said}: the bundle stops at each of {_numbers(union)}; "
            "correct the file that is wrong if one of them is not meant to end a text"
        )
    return union, tuple(doubts)


def _numbers(ids: Sequence[Any]) -> str:
    return ", ".join(map(str, ids))
