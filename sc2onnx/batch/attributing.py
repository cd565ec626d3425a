"""Which files of an index the text of a row repeats, as its output has it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sc2onnx.attribution.attribution import Attribution
from sc2onnx.batch.records import Record


@dataclass(frozen=True, slots=True)
class Marks:
    """Says what rows repeat, but for what stands in their own fields. Without an ``attribution``
    nothing is said.
    """

    attribution: Attribution | None = None

    @property
    def columns(self) -> Mapping[str, str]:
        """The field that it writes."""
        return {} if self.attribution is None else {"attribution": "json"}

    def settings(self) -> dict[str, Any]:
        """What the field depends on: the index by its digest, and the rules."""
        if self.attribution is None:
            return {}
        rules = self.attribution.rules
        with self.attribution.index.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {
            "attribution": {"index": digest, "least": rules.least, "most_files": rules.most_files}
        }

    def of(self, record: Record, text: str) -> dict[str, Any]:
        """The field for the ``text`` that a row became."""
        if self.attribution is None:
            return {}
        found = self.attribution.of(text, list(_texts(record.fields)))
        return {"attribution": [match.as_json() for match in found]}


def _texts(given: object) -> Iterator[str]:
    """All texts of a row's fields."""
    if isinstance(given, str):
        yield given
    elif isinstance(given, Mapping):
        for each in given.values():
            yield from _texts(each)
