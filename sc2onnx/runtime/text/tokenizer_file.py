"""``tokenizer.json``: looked through before the tokenizers library sees it, and the
library's failures as ours.

The library trusts its files: some settings end the process, some panic (an exception that is none:
``PanicException`` is no ``Exception``), one makes every encoding another by chance. What
StarCoder2's tokenizers have, their fine-tunes' too, is let through; nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer

from sc2onnx.bundle import records
from sc2onnx.bundle.tokenizer_parts import check_tokenizer
from sc2onnx.errors import TokenizerError

MOST_BYTES: Final = 32 << 20
"""Bytes that the file may have. StarCoder2's has 2 MB."""


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a file, which neither truncates nor pads. Raises :class:`TokenizerError`."""
    try:
        data = records.contents(path, MOST_BYTES)
        raw = records.parse(data)
        check_tokenizer(raw)
    except OSError as error:
        raise TokenizerError(
            f"{path} cannot be read ({error.strerror}): correct its permissions, or "
            "export the bundle again"
        ) from error
    except ValueError as error:
        raise TokenizerError(
            f"{path} is not a tokenizer of StarCoder2 ({error}): export the bundle again, or use "
            "token ids instead of text"
        ) from error
    if raw.get("truncation") is not None or raw.get("padding") is not None:
        data = json.dumps({**raw, "truncation": None, "padding": None}).encode()
    with guarded(f"{path} is not a tokenizer that tokenizers can read"):
        # what was looked through, and from no path, which tokenizers takes for UTF-8
        return Tokenizer.from_buffer(data)


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Turn what the library raises, panics too, into a :class:`TokenizerError`
    that begins with ``what``.

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
        raise TokenizerError(
            f"{what} ({said}): export the bundle again, or use token ids instead of text"
        ) from error
