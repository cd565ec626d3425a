"""Random JSON schemas, from a seed: what people write, all kinds of it, nested and combined."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

Schema = dict[str, Any]

_WORDS = ("name", "id", "größe", "tags", "is_open", "a b", "x", "items", 'quote"d', "nested/path")
_PATTERNS = ("^[a-z]{1,8}$", "^[A-Z][a-z]*-[0-9]{2,4}$", "^(yes|no|maybe)$", r"^\d{3}\.\d{2}$")
_FORMATS = ("date", "time", "date-time", "uuid", "ipv4", "email")


def schema(seed: int) -> Schema:
    """A schema; one in eight allows texts or lists of any length."""
    random = Random(seed)
    bounded = random.random() < 7 / 8
    made = _Maker(random, bounded).any(depth=0)
    if random.random() < 0.2:
        made = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "x", **made}
    return made


class _Maker:
    """Makes schemas. ``bounded``: every text and list has a length that it does not exceed."""

    def __init__(self, random: Random, bounded: bool) -> None:
        self._random, self._bounded = random, bounded

    def any(self, depth: int) -> Schema:
        simple = [self._string, self._integer, self._number, self._choice, self._plain]
        nested: list[Callable[[int], Schema]] = [
            self._object,
            self._object,
            self._array,
            self._tuple,
            self._either,
            self._all,
            self._reference,
        ]
        kinds = nested if depth == 0 else [*nested, *simple] if depth < 3 else simple
        return self._random.choice(kinds)(depth)

    def _string(self, depth: int) -> Schema:
        kind = self._random.randrange(4)
        if kind == 0:
            return {"type": "string", "pattern": self._random.choice(_PATTERNS)}
        if kind == 1:
            return {"type": "string", "format": self._random.choice(_FORMATS)}
        least = self._random.randrange(4)
        most = {"maxLength": least + self._random.randrange(12)} if self._bounded else {}
        return {"type": "string", "minLength": least, **most, "description": "some text"}

    def _integer(self, depth: int) -> Schema:
        low = self._random.randrange(-2000, 2000)
        found: Schema = {"type": "integer", "minimum": low}
        found["maximum"] = low + self._random.randrange(1, 5000)
        if self._random.random() < 0.3:
            found["multipleOf"] = self._random.choice((2, 5, 10))
            found["maximum"] += 20
        return found

    def _number(self, depth: int) -> Schema:
        low = round(self._random.uniform(-10, 10), 2)
        key = self._random.choice(("maximum", "exclusiveMaximum"))
        return {"type": "number", "minimum": low, key: low + self._random.randrange(1, 100)}

    def _choice(self, depth: int) -> Schema:
        values = ["red", "green", 'bl"ue', 1, -2.5, None, True, "ü", "a\nb"]
        some = self._random.sample(values, self._random.randrange(1, 6))
        return {"enum": some} if self._random.random() < 0.7 else {"const": some[0]}

    def _plain(self, depth: int) -> Schema:
        return {"type": self._random.choice(("boolean", "null", ["boolean", "null"]))}

    def _object(self, depth: int) -> Schema:
        names = self._random.sample(_WORDS, self._random.randrange(1, 6))
        required = [name for name in names if self._random.random() < 0.6]
        found: Schema = {
            "type": "object",
            "properties": {name: self.any(depth + 1) for name in names},
            "required": required,
            "additionalProperties": False,
        }
        if not self._bounded and self._random.random() < 0.3:
            found["additionalProperties"] = self.any(3)
        return found

    def _array(self, depth: int) -> Schema:
        least = self._random.randrange(3)
        most = {"maxItems": least + self._random.randrange(4)} if self._bounded else {}
        return {"type": "array", "items": self.any(depth + 1), "minItems": least, **most}

    def _tuple(self, depth: int) -> Schema:
        parts = [self.any(depth + 1) for _ in range(self._random.randrange(1, 4))]
        return {"type": "array", "prefixItems": parts, "items": False, "minItems": len(parts)}

    def _either(self, depth: int) -> Schema:
        kinds = [self._string, self._integer, self._plain, self._array, self._object]
        some = self._random.sample(kinds, self._random.randrange(2, 4))
        word = self._random.choice(("anyOf", "oneOf"))
        if word == "oneOf":  # of which only those that exclude each other are taken
            some = [self._string, self._integer, self._array]
        return {word: [kind(depth + 1) for kind in some]}

    def _all(self, depth: int) -> Schema:
        low = self._random.randrange(100)
        return {"allOf": [{"type": "integer", "minimum": low}, {"maximum": low + 50}]}

    def _reference(self, depth: int) -> Schema:
        if depth:  # definitions stand at the root
            return self._choice(depth)
        leaf, node = self.any(2), self._object(1)
        if self._random.random() < 0.3:  # a tree, which needs no children
            node["properties"]["next"] = {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}
        node["properties"]["leaf"] = {"$ref": "#/$defs/leaf"}
        node["required"] = [*node["required"], "leaf"]
        return {"$defs": {"leaf": leaf, "node": node}, "$ref": "#/$defs/node"}
