"""Checks of what callers pass, shared by everything that takes numbers from them."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from sc2onnx.errors import EmptyPromptError, RequestError, TokenIdError


def whole_number(name: str, value: Any, least: int) -> int:
    """``value`` as an int of at least ``least``. Raises :class:`RequestError` that names it."""
    try:
        number = operator.index(value)
    except TypeError:
        raise RequestError(f"{name} is {value!r}, expected a whole number from {least}") from None
    if number < least:
        raise RequestError(f"{name} is {value!r}, expected a whole number from {least}")
    return number


def token_ids(tokens: Iterable[int] | npt.NDArray[np.integer], vocab: int) -> npt.NDArray[np.int64]:
    """Token ids (n,) as int64; n may be 0. Raises :class:`TokenIdError` for anything that is not an id below ``vocab``."""
    try:
        ids = np.fromiter(map(operator.index, tokens), dtype=np.int64)
    except TypeError as error:
        raise TokenIdError(f"token ids are {type(tokens).__name__} with other things than integers in it, expected whole numbers: {error}") from error
    except OverflowError as error:
        raise TokenIdError(f"a token id is too large, expected 0 to {vocab - 1}") from error
    bad = ids[(ids < 0) | (ids >= vocab)]
    if bad.size:
        raise TokenIdError(f"token id {bad[0]} is outside the vocabulary, expected 0 to {vocab - 1}")
    return ids


def some_token_ids(tokens: Iterable[int] | npt.NDArray[np.integer], vocab: int) -> npt.NDArray[np.int64]:
    """Like :func:`token_ids`, at least one. Raises :class:`EmptyPromptError` if there is none."""
    ids = token_ids(tokens, vocab)
    if not ids.size:
        raise EmptyPromptError("there are no tokens, expected at least one: a model continues something")
    return ids
