"""Checks of what callers pass: each names the argument, what it is, and what was expected."""

from __future__ import annotations

import operator
import os
from collections.abc import Collection, Iterable, Mapping, Set
from contextlib import suppress
from dataclasses import fields
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.texts import plain_text
from sc2onnx.errors import EmptyPromptError, RequestError, TokenIdError

_SHOWN: Final = 80
"""Characters of a wrong value that an error repeats."""


def shown(value: object) -> str:
    """A value in an error: its repr, on one line and cut, or its type where it has none (integers
    of thousands of digits have none).
    """
    try:
        lines = repr(value).splitlines()  # that of an array has several
    except Exception:  # whatever a stranger's __repr__ raises
        return f"a {type(value).__name__}"
    text = plain_text(" ".join(line.strip() for line in lines))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... (a {type(value).__name__})"


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """``value`` as an int from ``least`` to ``most``; True and False are none. Raises
    :class:`RequestError` that names it.
    """
    expected = f"a whole number from {least}" + ("" if most is None else f" to {most}")
    try:
        number = _index(value)
    except TypeError:
        raise RequestError(f"{name} is {shown(value)}, expected {expected}") from None
    if number < least or (most is not None and number > most):
        raise RequestError(f"{name} is {shown(value)}, expected {expected}")
    return number


def check_keywords(record: type[Any], keywords: Mapping[str, Any]) -> None:
    """Raise :class:`TypeError` for keywords that are no fields of a dataclass."""
    known = {field.name for field in fields(record)}
    if unknown := sorted(keywords.keys() - known):
        expected = ", ".join(sorted(known))
        raise TypeError(f"unexpected keyword argument {unknown[0]!r}, expected {expected}")


def flag(name: str, value: Any) -> bool:
    """``value`` as a bool. Raises :class:`RequestError` for anything else: most texts, "no" among
    them, would count as true.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise RequestError(f"{name} is {shown(value)}, expected True or False")
    return bool(value)


def one_of(name: str, value: Any, allowed: Collection[str]) -> None:
    """Raise :class:`RequestError` unless ``value`` is one of these words."""
    if not isinstance(value, str) or value not in allowed:
        words = [repr(word) for word in allowed]
        raise RequestError(
            f"{name} is {shown(value)}, expected {', '.join(words[:-1])} or {words[-1]}"
        )


def text(name: str, value: Any) -> str:
    """``value``, a str of Unicode characters. Raises :class:`RequestError` that names what it is
    instead.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise RequestError(f"{name} is {shown(value)}, expected a str: decode it first")
    if not isinstance(value, str):
        raise RequestError(f"{name} is {shown(value)}, expected a str")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        where = f"U+{ord(value[error.start]):04X} at character {error.start}"
        raise RequestError(
            f"{name} is a str with lone surrogates ({where}), expected a str of Unicode "
            "characters: decode bytes with errors='replace'"
        ) from None
    return value


def optional_text(name: str, value: Any) -> str | None:
    """``value``, None or as in :func:`text`."""
    return None if value is None else text(name, value)


def texts(name: str, value: Any) -> list[str]:
    """``value`` as a list of str, of which it is any collection with an order. Raises
    :class:`RequestError`.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise RequestError(
            f"{name} is {shown(value)}, expected a str or a list of str: decode it first"
        )
    if not _is_collection(value) or isinstance(value, Set):
        raise RequestError(f"{name} is {shown(value)}, expected a str or a list of str")
    return [text(f"{name}[{i}]", entry) for i, entry in enumerate(value)]


def code_files(value: Any) -> dict[str, str]:
    """``value``, path -> code, as a dict; None is none. Raises :class:`RequestError` that names the
    file.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RequestError(f"files is {shown(value)}, expected a mapping of paths to their code")
    return {
        text("a path of files", path): text(f"files[{shown(path)}]", code)
        for path, code in value.items()
    }


def place_of(name: str, value: Any) -> str:
    """``value``, a path that the system could have, or an id. Raises :class:`RequestError`."""
    given = value
    if isinstance(value, os.PathLike):
        with suppress(TypeError):  # of a path that gives something else
            value = os.fspath(value)
    if isinstance(value, bytes) or not isinstance(value, str):
        raise RequestError(f"{name} is {shown(given)}, expected a path or a hub id")
    try:
        os.fsencode(value)
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{name} is {shown(value)}, which no file can be called here "
            f"({error.reason}): correct the path"
        ) from None
    if not value or "\0" in value:
        raise RequestError(
            f"{name} is {shown(value)}, expected a path that is not empty and has no null character"
        )
    return value


def stop_strings(value: Any) -> tuple[str, ...]:
    """Stop strings: None for none, one, or a collection of them. Raises :class:`RequestError`."""
    found = () if value is None else (value,) if isinstance(value, str) else value
    if not _is_collection(found) or not all(
        isinstance(stop, str) and stop for stop in found
    ):  # looked at before they are taken: a range has any length
        raise RequestError(
            f"stop is {shown(value)}, expected strings that are not empty: one, a list of "
            "them, or None for none"
        )
    return tuple(found)


def token_ids(
    tokens: Iterable[int] | npt.NDArray[np.integer],
    vocab: int,
    most: int | None = None,
    *,
    name: str = "token ids",
) -> npt.NDArray[np.int64]:
    """Token ids (n,) as int64; n may be 0. Raises :class:`TokenIdError` for anything that is not an
    id below ``vocab``.

    ``most``: no more than one beyond so many are taken of what is not in memory already: an
    iterator may never end, and a range be as long as it likes.
    """
    if isinstance(tokens, np.ndarray) and (
        tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in "iuO")
    ):
        raise TokenIdError(
            f"{name} are an array of shape {tokens.shape} of {tokens.dtype}, expected whole "
            "numbers in one dimension"
        )
    if isinstance(tokens, (str, bytes, bytearray, memoryview, Mapping)) or not isinstance(
        tokens, Iterable
    ):
        raise TokenIdError(
            f"{name} are {shown(tokens)}, expected whole numbers, in a list or an array"
        )
    taken = (
        tokens
        if most is None or isinstance(tokens, (list, tuple, np.ndarray))
        else islice(tokens, most + 1)
    )
    try:
        ids = np.fromiter(map(_index, taken), dtype=np.int64)
    except TypeError as error:
        kind = type(tokens).__name__
        raise TokenIdError(
            f"{name} are a {kind} with other things in it ({error}), expected whole numbers"
        ) from error
    except OverflowError as error:
        raise TokenIdError(f"a token id is too large, expected 0 to {vocab - 1}") from error
    bad = ids[(ids < 0) | (ids >= vocab)]
    if bad.size:
        raise TokenIdError(
            f"token id {bad[0]} is outside the vocabulary, expected 0 to {vocab - 1}"
        )
    return ids


def some_token_ids(
    tokens: Iterable[int] | npt.NDArray[np.integer], vocab: int, most: int | None = None
) -> npt.NDArray[np.int64]:
    """Token ids as in :func:`token_ids`, at least one. Raises :class:`EmptyPromptError` if there is
    none.
    """
    ids = token_ids(tokens, vocab, most)
    if not ids.size:
        raise EmptyPromptError(
            "there are no tokens, expected at least one: a model continues something"
        )
    return ids


def _is_collection(value: Any) -> bool:
    """Whether it holds values one by one: no bytes, no mapping, no array without dimensions."""
    none = isinstance(value, (bytes, bytearray, memoryview, Mapping)) or (
        isinstance(value, np.ndarray) and value.ndim == 0
    )
    return isinstance(value, Collection) and not none


def _index(value: Any) -> int:
    if isinstance(value, (bool, np.ndarray)):
        raise TypeError(f"a {type(value).__name__} is no whole number")
    return operator.index(value)
