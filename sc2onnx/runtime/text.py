"""Strings <-> tokens: the tokenizer, incremental detokenization, and StarCoder2's fill-in-the-middle prompts."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, get_args

from tokenizers import Tokenizer

from sc2onnx.bundle.contract import TOKENIZER_FILE
from sc2onnx.errors import EmptyPromptError, RequestError, TokenIdError, TokenizerError
from sc2onnx.runtime.arguments import shown
from sc2onnx.runtime.arguments import text as checked_text
from sc2onnx.runtime.tokenizer_file import guarded, open_tokenizer

END_OF_TEXT: Final = "<|endoftext|>"
FIM_PREFIX: Final = "<fim_prefix>"
FIM_MIDDLE: Final = "<fim_middle>"
FIM_SUFFIX: Final = "<fim_suffix>"
FIM_PAD: Final = "<fim_pad>"
REPO_NAME: Final = "<repo_name>"
FILE_SEP: Final = "<file_sep>"

STOP_TOKENS: Final = (END_OF_TEXT, FILE_SEP, FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, FIM_PAD)
"""Each of them ends a piece of code in the training format; none is ever part of one."""


FimOrder = Literal["psm", "spm"]
"""How the parts of a fill-in-the-middle prompt follow each other: prefix, suffix, middle; or suffix, prefix, middle."""


class Codec:
    """A byte-level BPE tokenizer, both ways. Safe for several threads."""

    def __init__(self, path: Path) -> None:
        """Raises :class:`TokenizerError` if the file is not a byte-level tokenizer, or not one at all."""
        self._special = open_tokenizer(path)
        decoder = type(self._special.decoder).__name__
        if decoder != "ByteLevel":
            raise TokenizerError(f"{path} has the decoder {decoder}, expected ByteLevel as in StarCoder2: use token ids instead of text")
        self._special.no_truncation()
        self._special.no_padding()
        self._added = self._special.get_added_tokens_decoder()

    @cached_property
    def _plain(self) -> Tokenizer:
        """The same with special tokens as text: that is a setting of the tokenizer, and threads share it, so it takes a second one."""
        tokenizer = Tokenizer.from_str(self._special.to_str())
        tokenizer.encode_special_tokens = True
        return tokenizer

    def encode(self, text: str, *, special: bool = True, framed: bool | None = None) -> list[int]:
        """Token ids. ``special``: whether ``<fim_prefix>`` and its like in the text mean the
        special token, or their characters.

        ``framed``: whether the tokenizer adds what it puts around every text, if it does that
        (StarCoder2's does not); by default where special tokens are meant.
        """
        tokenizer = self._special if special else self._plain
        try:
            with guarded("the tokenizer could not encode the text"):
                framed = special if framed is None else framed
                return list(tokenizer.encode(text, add_special_tokens=framed).ids)
        except TypeError as error:
            found = "a str with lone surrogates" if isinstance(text, str) else f"a {type(text).__name__}"
            raise RequestError(f"the text is {found}, expected a str of Unicode characters") from error

    @cached_property
    def longest_token(self) -> int | None:
        """Characters that a token stands for at most; None where the tokenizer changes the text first, as StarCoder2's does not."""
        if self._special.normalizer is not None:
            return None
        return max(map(len, self._special.get_vocab(with_added_tokens=True)), default=1)

    def special_id(self, token: str) -> int:
        """Id of a special token. Raises :class:`TokenizerError` if the tokenizer lacks it."""
        number = self._special.token_to_id(checked_text("token", token))
        if number is None:
            raise TokenizerError(f"the tokenizer has no {token}, expected StarCoder2's special tokens: fill-in-the-middle needs them")
        return int(number)

    def stop_ids(self) -> frozenset[int]:
        """Ids of :data:`STOP_TOKENS`, as far as the tokenizer has them."""
        found = (self._special.token_to_id(token) for token in STOP_TOKENS)
        return frozenset(number for number in found if number is not None)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of the text that a token stands for; none for special tokens and ids without a token.

        Raises :class:`TokenIdError` for what can be no id.
        """
        try:
            added = self._added.get(token)
            text = "" if added is not None else self._special.id_to_token(token) or ""
        except (TypeError, OverflowError) as error:
            raise TokenIdError(f"the token id is {shown(token)}, expected a whole number from 0") from error
        if added is not None:
            return b"" if added.special else added.content.encode()
        if any(character not in _BYTE_OF for character in text):  # not of the byte alphabet: tokenizers gives it as it is
            return str(text).encode()
        return bytes(_BYTE_OF[character] for character in text)


class Detokenizer:
    """Turns tokens into text as they come, never half a character: bytes wait until they are a character, or cannot become one."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """Text that this token completes, often all of its own; invalid bytes become U+FFFD."""
        return self._decoder.decode(self._codec.token_bytes(token))

    def flush(self) -> str:
        """What is left when no token follows: U+FFFD for a character that was cut short."""
        return self._decoder.decode(b"", final=True)


@dataclass(slots=True)
class StopScanner:
    """Holds text back while it may be the beginning of a stop string."""

    stops: tuple[str, ...]
    found: bool = False
    _held: str = field(default="")

    def push(self, text: str) -> str:
        """Text that is certainly before any stop string. After :attr:`found`, nothing more.

        With the stop "def", pushing "a de" gives "a ", and "f b" then gives "" and sets ``found``.
        """
        if self.found:
            return ""
        self._held += text
        starts = [start for stop in self.stops if (start := self._held.find(stop)) >= 0]
        if starts:
            self.found = True
            safe = min(starts)
        else:
            safe = len(self._held) - self._overlap()
        out, self._held = self._held[:safe], self._held[safe:]
        return out

    def flush(self) -> str:
        """What was held back, when nothing follows."""
        out, self._held = "" if self.found else self._held, ""
        return out

    def _overlap(self) -> int:
        """Length of the longest end of the held text that some stop string begins with."""
        longest = max((len(stop) - 1 for stop in self.stops), default=0)
        lengths = range(min(longest, len(self._held)), 0, -1)
        return next((n for n in lengths if any(stop.startswith(self._held[-n:]) for stop in self.stops)), 0)


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

    The training format of StarCoder2 (Lozhkov et al. 2024, section 5): ``[<repo_name>repo]``, then ``<file_sep>path\ncode``
    for every other file, then ``<file_sep><fim_prefix>[path\n]prefix<fim_suffix>suffix<fim_middle>``; in the order ``spm`` the
    last is ``<file_sep><fim_prefix><fim_suffix>suffix<fim_middle>[path\n]prefix`` (Bavarian et al. 2022, SPM variant 2, as in
    the fill-in-the-middle code of BigCode's Megatron-LM). The texts are data: special tokens spelt out in them stay characters.

    Raises :class:`EmptyPromptError`, and :class:`RequestError` for another order.
    """
    if order not in get_args(FimOrder):
        raise RequestError(f"order is {order!r}, expected 'psm' or 'spm'")
    if not (prefix or suffix or files):
        raise EmptyPromptError("prefix and suffix are both empty, expected some code around the cursor")
    ids: list[int] = []
    if repo is not None:
        ids += [codec.special_id(REPO_NAME), *codec.encode(repo, special=False)]
    for name, code in (files or {}).items():
        ids += [codec.special_id(FILE_SEP), *codec.encode(f"{name}\n{code}", special=False)]
    before = codec.encode(prefix if path is None else f"{path}\n{prefix}", special=False)
    after = [codec.special_id(FIM_SUFFIX), *codec.encode(suffix, special=False), codec.special_id(FIM_MIDDLE)]
    return [*ids, codec.special_id(FILE_SEP), codec.special_id(FIM_PREFIX), *(before + after if order == "psm" else after + before)]


def around_cursor(codec: Codec, prefix: str, suffix: str, budget: int, *, step: int = 1) -> tuple[str, str]:
    """The end of ``prefix`` and the beginning of ``suffix`` that together take about ``budget``
    tokens, cut at line breaks where it can be.

    A quarter of the budget goes to the suffix; what one side leaves unused, the other takes. Texts
    that fit come back whole. ``step``: the prefix loses a multiple of so many tokens, and the
    suffix keeps one, so that both are cut where they were before while a few tokens are typed.
    """
    tokens = codec.encode(prefix, special=False), codec.encode(suffix, special=False)
    return cut_around(codec, (prefix, suffix), tokens, budget, step)


def cut_around(codec: Codec, texts: tuple[str, str], tokens: tuple[list[int], list[int]], budget: int, step: int) -> tuple[str, str]:
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


def open_codec(path: Path | None) -> Codec:
    """The codec of a bundle; None: it has no tokenizer. Raises :class:`TokenizerError` that says what is missing."""
    if path is None:
        raise TokenizerError(
            f"the bundle has no {TOKENIZER_FILE}, so it takes and gives token ids only: use model.sequence() or "
            f"model.generate_tokens(), or put {TOKENIZER_FILE} into the checkpoint and export again"
        )
    return Codec(path)


def _byte_alphabet() -> dict[str, int]:
    """Character -> byte of GPT-2's byte-level alphabet: printable Latin-1 as itself, the other 68 bytes from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF: Final = _byte_alphabet()
