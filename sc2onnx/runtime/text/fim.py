"""Fill-in-the-middle prompts of StarCoder2, and what of the code around a cursor fits into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from sc2onnx.errors import EmptyPromptError, RequestError
from sc2onnx.runtime.text.codec import (
    FILE_SEP,
    FIM_MIDDLE,
    FIM_PREFIX,
    FIM_SUFFIX,
    REPO_NAME,
    Codec,
)

FimOrder = Literal["psm", "spm"]
"""How the parts of a fill-in-the-middle prompt follow each other: prefix, suffix, middle;
or suffix, prefix, middle.
"""


def fim_prompt(
    codec: Codec,
    prefix: str,
    suffix: str,
    path: str | None = None,
    repo: str | None = None,
    files: Mapping[str, str] | None = None,
    *,
    order: FimOrder = "psm",
) -> list[int]:
    r"""Tokens after which the model writes what stands between ``prefix`` and ``suffix``.

    The training format of StarCoder2 (Lozhkov et al. 2024, section 5): ``[<repo_name>repo]``, then
    ``<file_sep>path\ncode`` for every other file, then
    ``<file_sep><fim_prefix>[path\n]prefix<fim_suffix>suffix<fim_middle>``; in the order ``spm`` the
    last is ``<file_sep><fim_prefix><fim_suffix>suffix<fim_middle>[path\n]prefix`` (Bavarian et al.
    2022, SPM variant 2, as in the fill-in-the-middle code of BigCode's Megatron-LM). The texts are
    data: special tokens spelt out in them stay characters.

    Raises :class:`EmptyPromptError`, and :class:`RequestError` for another order.
    """
    if order not in get_args(FimOrder):
        raise RequestError(f"order is {order!r}, expected 'psm' or 'spm'")
    if not (prefix or suffix or files):
        raise EmptyPromptError(
            "what is before the cursor and after it are both empty, expected some code around it"
        )
    ids: list[int] = []
    if repo is not None:
        ids += [codec.special_id(REPO_NAME), *codec.encode(repo, special=False)]
    for name, code in (files or {}).items():
        ids += [codec.special_id(FILE_SEP), *codec.encode(f"{name}\n{code}", special=False)]
    before = codec.encode(prefix if path is None else f"{path}\n{prefix}", special=False)
    after = [
        codec.special_id(FIM_SUFFIX),
        *codec.encode(suffix, special=False),
        codec.special_id(FIM_MIDDLE),
    ]
    return [
        *ids,
        codec.special_id(FILE_SEP),
        codec.special_id(FIM_PREFIX),
        *(before + after if order == "psm" else after + before),
    ]


def around_cursor(
    codec: Codec, prefix: str, suffix: str, budget: int, *, step: int = 1
) -> tuple[str, str]:
    """The end of ``prefix`` and the beginning of ``suffix`` that together take about ``budget``
    tokens, cut at line breaks where it can be.

    A quarter of the budget goes to the suffix; what one side leaves unused, the other takes. Texts
    that fit come back whole. ``step``: the prefix loses a multiple of so many tokens, and the
    suffix keeps one, so that both are cut where they were before while a few tokens are typed.
    """
    tokens = codec.encode(prefix, special=False), codec.encode(suffix, special=False)
    return cut_around(codec, (prefix, suffix), tokens, budget, step)


def cut_around(
    codec: Codec,
    texts: tuple[str, str],
    tokens: tuple[list[int], list[int]],
    budget: int,
    step: int,
) -> tuple[str, str]:
    """The texts before and after a cursor, and their tokens -> what of both takes about ``budget``,
    as :func:`around_cursor` cuts.
    """
    (prefix, suffix), (before, after) = texts, tokens
    if len(before) + len(after) <= budget:
        return prefix, suffix
    keep_after = min(len(after), max(budget // 4, budget - len(before)))
    keep_before = min(len(before), budget - keep_after)
    if keep_before < len(before):
        dropped = -(-(len(before) - keep_before) // step) * step
        keep_before = max(min(keep_before, step), len(before) - dropped)
        prefix = last_tokens(codec, before, keep_before)
    if keep_after < len(after):
        keep_after -= keep_after % step if keep_after > step else 0
        suffix = _text(codec, after[:keep_after])
        suffix = suffix[: suffix.rfind("\n") + 1] or suffix
    return prefix, suffix


def last_tokens(codec: Codec, tokens: Sequence[int], count: int) -> str:
    """Text of the last ``count`` tokens, from the first line break on where there is one."""
    text = _text(codec, tokens[len(tokens) - count :])
    return text[text.find("\n") + 1 :] if "\n" in text[:-1] else text


def _text(codec: Codec, tokens: Sequence[int]) -> str:
    """Text of tokens cut anywhere; the halves of characters at either end go."""
    return b"".join(map(codec.token_bytes, tokens)).decode("utf-8", errors="ignore")
