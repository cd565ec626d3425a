"""A row of the input as it was read: who it is, and the fields that its task knows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sc2onnx.errors import RequestError
from sc2onnx.runtime.arguments import shown, text

ID: Final = "id"
"""The field that says who a row is, where there is one."""

_LONGEST_ID: Final = 512


@dataclass(frozen=True, slots=True)
class Record:
    """A row: the ``number``-th of a ``file``, from 1; its ``id``, None where it has none; its
    ``fields`` by the names that tasks know; ``error``: why it is none, where it could not be read.
    """

    file: str
    number: int
    id: str | int | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def identity(self) -> str:
        """Who it is among all rows: its id, or else its place."""
        return f"row {self.number} {self.file}" if self.id is None else f"id {self.id}"

    def head(self) -> dict[str, Any]:
        """What a row of the output begins with: where its row of the input is."""
        place = {"file": self.file, "row": self.number}
        return place if self.id is None else {ID: self.id, **place}

    def text(self, name: str) -> str:
        """A field that must be a text. Raises :class:`RequestError`."""
        if name not in self.fields:
            raise RequestError(
                f"the row has no {name}, expected a text: name the field that has it "
                f"with --field {name}=FIELD"
            )
        return text(name, self.fields[name])

    def seed(self, seed: int) -> int:
        """The seed of this row in a job with a seed: the same wherever the row stands."""
        digest = hashlib.blake2b(f"{seed}\n{self.identity}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True, slots=True)
class Fields:
    """Which ``columns`` of the input a task reads: its own name of a field -> the input's."""

    columns: Mapping[str, str]

    @classmethod
    def of(cls, known: Sequence[str], renamed: Mapping[str, str]) -> Fields:
        """``known``: fields of a task; ``renamed``: other names for some of them and for ``id``, an
        empty one for none. Raises :class:`RequestError`.
        """
        names = (ID, *known)
        if unknown := sorted(set(renamed) - set(names)):
            raise RequestError(
                f"--field names {shown(unknown[0])}, expected one of {', '.join(names)}"
            )
        return cls({name: column for name in names if (column := renamed.get(name, name))})

    def record(self, file: str, number: int, row: Mapping[str, Any]) -> Record:
        """A row as a record; its other fields, and those that are null, are left out."""
        found = {
            name: value
            for name, column in self.columns.items()
            if (value := row.get(column)) is not None
        }
        try:
            return Record(file, number, _id(found.pop(ID, None)), found)
        except RequestError as error:
            return Record(file, number, error=str(error))


def _id(value: object) -> str | int | None:
    """An id. Raises :class:`RequestError`."""
    good = value is None or (isinstance(value, (str, int)) and not isinstance(value, bool))
    if not good or len(str(value)) > _LONGEST_ID:
        raise RequestError(
            f"id is {shown(value)}, expected a text of at most {_LONGEST_ID} "
            "characters or a whole number"
        )
    assert isinstance(value, (str, int)) or value is None
    return text(ID, value) if isinstance(value, str) else value
