"""Strings <-> tokens: the tokenizer of a bundle."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer

from sc2onnx.bundle.contract import TOKENIZER_FILE
from sc2onnx.errors import RequestError, TokenIdError, TokenizerError
from sc2onnx.runtime.arguments import shown
from sc2onnx.runtime.arguments import text as checked_text
from sc2onnx.runtime.text.tokenizer_file import guarded, open_tokenizer

END_OF_TEXT: Final = "<|endoftext|>"
FIM_PREFIX: Final = "<fim_prefix>"
FIM_MIDDLE: Final = "<fim_middle>"
FIM_SUFFIX: Final = "<fim_suffix>"
FIM_PAD: Final = "<fim_pad>"
REPO_NAME: Final = "<repo_name>"
FILE_SEP: Final = "<file_sep>"

STOP_TOKENS: Final = (END_OF_TEXT, FILE_SEP, FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, FIM_PAD)
"""Each of them ends a piece of code in the training format; none is ever part of one."""


class Codec:
    """A byte-level BPE tokenizer, both ways. Safe for several threads."""

    def __init__(self, path: Path) -> None:
        """Raises :class:`TokenizerError` if the file is not a byte-level
        tokenizer, or not one at all.
        """
        self._special = open_tokenizer(path)
        decoder = type(self._special.decoder).__name__
        if decoder != "ByteLevel":
            raise TokenizerError(
                f"{path} has the decoder {decoder}, expected ByteLevel as in StarCoder2: use "
                "token ids instead of text"
            )
        self._special.no_truncation()
        self._special.no_padding()
        self._added = self._special.get_added_tokens_decoder()

    @cached_property
    def _plain(self) -> Tokenizer:
        """The same with special tokens as text: that is a setting of the tokenizer, and threads
        share it, so it takes a second one.
        """
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
            found = (
                "a str with lone surrogates"
                if isinstance(text, str)
                else f"a {type(text).__name__}"
            )
            raise RequestError(
                f"the text is {found}, expected a str of Unicode characters"
            ) from error

    @cached_property
    def longest_token(self) -> int | None:
        """Characters that a token stands for at most; None where the tokenizer changes the text
        first, as StarCoder2's does not.
        """
        if self._special.normalizer is not None:
            return None
        return max(map(len, self._special.get_vocab(with_added_tokens=True)), default=1)

    @property
    def added_tokens(self) -> dict[str, bool]:
        """The tokens that are found in a text before it is parted into words: by their texts,
        whether they are special.
        """
        return {token.content: token.special for token in self._added.values()}

    def special_id(self, token: str) -> int:
        """Id of a special token. Raises :class:`TokenizerError` if the tokenizer lacks it."""
        number = self.token_id(checked_text("token", token))
        if number is None:
            raise TokenizerError(
                f"the tokenizer has no {token}, expected StarCoder2's special tokens: "
                "fill-in-the-middle needs them"
            )
        return number

    def token_id(self, token: str) -> int | None:
        """Id of a token by its text; None where the tokenizer has none."""
        number = self._special.token_to_id(token)
        return None if number is None else int(number)

    def stop_ids(self) -> frozenset[int]:
        """Ids of :data:`STOP_TOKENS`, as far as the tokenizer has them."""
        found = (self._special.token_to_id(token) for token in STOP_TOKENS)
        return frozenset(number for number in found if number is not None)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of the text that a token stands for; none for special
        tokens and ids without a token.

        Raises :class:`TokenIdError` for what can be no id.
        """
        try:
            added = self._added.get(token)
            text = "" if added is not None else self._special.id_to_token(token) or ""
        except (TypeError, OverflowError) as error:
            raise TokenIdError(
                f"the token id is {shown(token)}, expected a whole number from 0"
            ) from error
        if added is not None:
            return b"" if added.special else added.content.encode()
        # not of the byte alphabet: tokenizers gives it as it is
        if any(character not in _BYTE_OF for character in text):
            return str(text).encode()
        return bytes(_BYTE_OF[character] for character in text)


def open_codec(path: Path | None) -> Codec:
    """The codec of a bundle; None: it has no tokenizer.
    Raises :class:`TokenizerError` that says what is missing.
    """
    if path is None:
        raise TokenizerError(
            f"the bundle has no {TOKENIZER_FILE}, so it takes and gives token ids only: use "
            f"model.sequence() or model.generate_tokens(), or put {TOKENIZER_FILE} into the "
            "checkpoint and export again"
        )
    return Codec(path)


def _byte_alphabet() -> dict[str, int]:
    """Character -> byte of GPT-2's byte-level alphabet: printable Latin-1 as itself, the
    other 68 bytes from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + i): byte for i, byte in enumerate(others)
    }


_BYTE_OF: Final = _byte_alphabet()
