"""JSON -> plain values -> dataclasses: strict, and bounded before it is used.

Files of JSON come from strangers. What Python's parser lets through and the code behind it would
stumble over is refused here, once: see :func:`parse`.
"""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from math import isfinite
from pathlib import Path
from types import UnionType
from typing import Any, Final, NoReturn, TypeVar, get_args, get_origin, get_type_hints

MOST_BYTES: Final = 16 << 20
"""Bytes that a file of settings may have. The index of the largest checkpoint has 0.1 MB."""

_DEEPEST: Final = 64
_MOST_DIGITS: Final = 40
"""Digits of an integer: tokenizers write 10^30 for "no limit"."""

_Record = TypeVar("_Record")


def parse(data: bytes) -> dict[str, Any]:
    """Parse UTF-8 bytes that must be a JSON object, and return it.

    Raises :class:`ValueError`, with a message of one line, for what is not JSON and for what JSON
    allows but nothing of ours writes: a key twice, numbers that are not finite (NaN, 1e400),
    integers of more than 40 digits, nesting deeper than 64, halves of surrogate pairs.
    """
    if data.startswith(codecs.BOM_UTF8):
        raise ValueError("it begins with a byte order mark, save it as UTF-8 without one")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_constant,
        )
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, expected an object")
    _check(value)
    return value


def read(path: Path, most: int = MOST_BYTES) -> dict[str, Any]:
    """Read and :func:`parse` a file of at most ``most`` bytes.

    Raises :class:`OSError`, and :class:`ValueError` as :func:`parse` does.
    """
    return parse(contents(path, most))


def contents(path: Path, most: int) -> bytes:
    """Read a file of at most ``most`` bytes.
    Raises :class:`OSError`, :class:`ValueError` for more.
    """
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return data


def record(cls: type[_Record], raw: Mapping[str, Any]) -> _Record:
    """``cls(**raw)``, refusing unknown and missing fields by name."""
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(raw) - known):
        raise TypeError(f"{cls.__name__} has unknown fields {str(unknown)[:200]}")
    for name, hint in get_type_hints(cls).items():
        if name in raw and not _fits(raw[name], hint):
            raise TypeError(
                f"{cls.__name__}.{name} is {repr(raw[name])[:80]}, expected "
                f"{getattr(hint, '__name__', hint)}"
            )
    return cls(**raw)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON is of a field's type.
    A float may be written as an integer; true is no number.
    """
    options = get_args(hint)
    if get_origin(hint) is UnionType:
        return any(_fits(value, option) for option in options)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(item, options[0]) for item in value)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, get_origin(hint) or hint)


_TOO_DEEP: Final = f"it is nested deeper than {_DEEPEST}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key in value if counts[key] > 1)
        raise ValueError(f"it has the key {twice[:80]!r} twice")
    return value


def _integer(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(
            f"it has an integer of {len(text)} digits, expected at most {_MOST_DIGITS}"
        )
    return int(text)


def _float(text: str) -> float:
    if not isfinite(value := float(text)):
        raise ValueError(f"it has the number {text[:40]}, which is not finite")
    return value


def _constant(text: str) -> NoReturn:
    raise ValueError(f"it has {text}, which is not a number of JSON")


def _check(value: Any, depth: int = 1) -> None:
    """Visit every key and value; raise :class:`ValueError` for what is too deep or no text."""
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError("it has half of a surrogate pair, which is no character") from None
        return
    if isinstance(value, (dict, list)):
        if depth > _DEEPEST:
            raise ValueError(_TOO_DEEP)
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            if isinstance(item, (str, dict, list)):
                _check(item, depth + 1)
