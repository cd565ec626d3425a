"""What a text has to be: a grammar, a JSON schema, a regular expression or one of some choices.

The bounds are those within which the library of :mod:`sc2onnx.runtime.choose.grammar` compiles what
strangers send in a second: it takes time and memory that grow with the square of a regular
expression's length, and much more slowly with a schema's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict, get_args

from sc2onnx.errors import ConstraintError
from sc2onnx.runtime.arguments import shown

Kind = Literal["grammar", "json_schema", "regex", "choices"]
"""In which words a constraint is said."""

JsonSchema = Mapping[str, Any] | str
"""A JSON schema: as a dict, or as JSON."""

MOST_REGEX: Final = 2048
"""Characters of a regular expression, and of all patterns of a schema together."""

MOST_GRAMMAR: Final = 16_384
"""Characters of a grammar."""

MOST_REPEATS: Final = 300
"""Signs in a grammar that may repeat something: ``?``, ``*``, ``+`` and ``{``."""

MOST_PROPERTIES: Final = 1000
"""Properties of one object of a schema."""

MOST_SCHEMA: Final = 65_536
"""Characters of a schema, and of all choices together."""


class ConstraintKeywords(TypedDict, total=False):
    """The keywords of a constraint, of which a call has one at most."""

    grammar: str | None
    json_schema: JsonSchema | None
    regex: str | None
    choices: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class Constraint:
    """A constraint that was checked. ``text``: of a schema and of choices, JSON."""

    kind: Kind
    text: str


def constraint_of(given: Mapping[Kind, object]) -> Constraint | None:
    """The constraint that is asked for; None: none is. Raises
    :class:`~sc2onnx.errors.ConstraintError` for several, and for one that is too large.
    """
    asked = [kind for kind in get_args(Kind) if given[kind] is not None]
    if not asked:
        return None
    if len(asked) > 1:
        raise ConstraintError(f"{' and '.join(asked)} are given, expected one of them")
    kind: Kind = asked[0]
    return Constraint(kind, _TEXT_OF[kind](given[kind]))


def _regex(given: object) -> str:
    return _bounded("regex", given, "a regular expression", MOST_REGEX)


def _grammar(given: object) -> str:
    text = _bounded("grammar", given, "a grammar, in Lark's or llama.cpp's syntax", MOST_GRAMMAR)
    if (found := sum(map(text.count, "?*+{"))) > MOST_REPEATS:
        raise ConstraintError(
            f"grammar has {found} signs that repeat something (?, *, + or {{), expected at most "
            f"{MOST_REPEATS}: simplify it"
        )
    return text


def _schema(given: object) -> str:
    """A schema as JSON, checked as far as its size goes."""
    expected = "a JSON schema, as a dict or as JSON"
    try:
        schema = json.loads(given) if isinstance(given, str) else given
        if not isinstance(schema, Mapping):
            raise ConstraintError(f"json_schema is {shown(given)}, expected {expected}")
        text = json.dumps(dict(schema), ensure_ascii=False, separators=(",", ":"))
        patterns = sum(map(len, _patterns(schema)))
        properties = _most_properties(schema)
    except (ValueError, TypeError, RecursionError) as error:
        if isinstance(error, ConstraintError):
            raise
        found = f"json_schema is {shown(given)} ({' '.join(str(error).split())[:100]})"
        raise ConstraintError(f"{found}, expected {expected}") from None
    if patterns > MOST_REGEX:
        found = f"json_schema has patterns of {patterns} characters"
        raise ConstraintError(f"{found}, expected at most {MOST_REGEX} together: simplify them")
    if properties > MOST_PROPERTIES:
        found = f"json_schema has an object of {properties} properties"
        raise ConstraintError(f"{found}, expected at most {MOST_PROPERTIES}: simplify it")
    return _bounded("json_schema", text, expected, MOST_SCHEMA)


def _most_properties(schema: object) -> int:
    """Of any object in a schema."""
    if isinstance(schema, Mapping):
        named = schema.get("properties")
        own = len(named) if isinstance(named, Mapping) else 0
        return max([own, *map(_most_properties, schema.values())])
    if isinstance(schema, (list, tuple)):
        return max(map(_most_properties, schema), default=0)
    return 0


def _patterns(schema: object) -> list[str]:
    """All that may be regular expressions in a schema."""
    if isinstance(schema, Mapping):
        own = schema.get("pattern")
        named = schema.get("patternProperties")
        found = [own] if isinstance(own, str) else []
        found += [str(key) for key in named] if isinstance(named, Mapping) else []
        return found + [each for value in schema.values() for each in _patterns(value)]
    if isinstance(schema, (list, tuple)):
        return [each for value in schema for each in _patterns(value)]
    return []


def _choices(given: object) -> str:
    """Choices as JSON."""
    expected = "texts that are not empty: a list of them"
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Sequence):
        raise ConstraintError(f"choices is {shown(given)}, expected {expected}")
    if not given or not all(isinstance(each, str) and each for each in given):
        raise ConstraintError(f"choices is {shown(given)}, expected {expected}")
    text = json.dumps(list(given), ensure_ascii=False)
    return _bounded("choices", text, expected, MOST_SCHEMA)


def _bounded(name: str, given: object, expected: str, most: int) -> str:
    if not isinstance(given, str) or not given or "\0" in given:
        raise ConstraintError(f"{name} is {shown(given)}, expected {expected}")
    if len(given) > most:
        found = f"{name} has {len(given)} characters"
        raise ConstraintError(f"{found}, expected at most {most}: simplify it")
    try:
        given.encode()
    except UnicodeEncodeError:
        found = f"{name} is a str with lone surrogates"
        raise ConstraintError(f"{found}, expected a str of Unicode characters") from None
    return given


_TEXT_OF: Final = {
    "grammar": _grammar,
    "json_schema": _schema,
    "regex": _regex,
    "choices": _choices,
}
"""What checks each kind."""
