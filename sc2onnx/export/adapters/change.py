"""What adapters do to one tensor of a model, in float32, a few rows at a time.

Sources: ``merge`` of ``lora.Linear``, ``lora.Embedding``, DoRA's variants and
``TrainableTokensLayer`` of peft 0.21.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Final, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from sc2onnx.errors import TensorError
from sc2onnx.export.shown import name_of
from sc2onnx.export.stored import Readable, StoredTensor

Floats: TypeAlias = npt.NDArray[np.float32]

Opened: TypeAlias = Callable[[Floats, Floats, int], Floats]
"""(rows as changed so far, the same rows unchanged, number of the first) -> the rows changed."""

_BYTES: Final = 16 << 20
"""Of a tensor that is read for itself, at once."""


class Change(Protocol):
    """A change of a tensor: it reads what it needs of the adapter when the tensor is made."""

    def opened(self, base: Readable) -> Opened:
        """The change, ready for rows of ``base`` in order. Raises :class:`TensorError`."""
        ...


@dataclass(frozen=True, slots=True)
class LowRank:
    """Adds ``scale`` times the product of ``left`` (rows, r) and ``right`` (r, columns).

    ``transposed``: both are stored the other way, (r, rows) and (columns, r), as peft does for
    embeddings. ``magnitude``: DoRA's length of each row, of an embedding of each column; a sum is
    brought to it by the length that it has on the base alone, whatever else is merged.
    """

    left: StoredTensor
    right: StoredTensor
    scale: float
    transposed: bool = False
    magnitude: StoredTensor | None = None

    def opened(self, base: Readable) -> Opened:
        """The change with its matrices read. Raises :class:`TensorError`."""
        left, right, scale = whole(self.left), whole(self.right), np.float32(self.scale)
        if self.transposed:
            left, right = left.T, right.T

        def delta(first: int, count: int) -> Floats:
            return (left[first : first + count] @ right) * scale

        if self.magnitude is None:
            return lambda rows, own, first: rows + delta(first, len(rows))
        magnitude = whole(self.magnitude)
        if self.transposed:
            factor = magnitude / _column_lengths(base, delta)
            return lambda rows, own, first: factor * (rows + delta(first, len(rows)))

        def of_rows(rows: Floats, own: Floats, first: int) -> Floats:
            added = delta(first, len(rows))
            lengths = np.linalg.norm(own + added, axis=1)
            factors: Floats = magnitude[first : first + len(rows)] / lengths
            return factors[:, None] * (rows + added)

        return of_rows


def _column_lengths(base: Readable, delta: Callable[[int, int], Floats]) -> Floats:
    """Length of each column of a base (rows, columns) with a change: one pass over it."""
    squares, first = np.zeros(base.shape[1], dtype=np.float64), 0
    for rows in _parts(base):
        changed = rows.astype(np.float32) + delta(first, len(rows))
        squares += np.square(changed, dtype=np.float64).sum(axis=0)
        first += len(rows)
    return np.sqrt(squares).astype(np.float32)


@dataclass(frozen=True, slots=True)
class AddedBias:
    """Adds ``scale`` times a vector."""

    bias: StoredTensor
    scale: float

    def opened(self, base: Readable) -> Opened:
        """The change with its vector read. Raises :class:`TensorError`."""
        added = whole(self.bias) * np.float32(self.scale)
        return lambda rows, own, first: rows + added[first : first + len(rows)]


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Puts rows (n, columns) in the place of those of n tokens."""

    ids: tuple[int, ...]
    values: StoredTensor

    def opened(self, base: Readable) -> Opened:
        """The change with its rows read. Raises :class:`TensorError`."""
        values, ids = whole(self.values), np.array(self.ids, dtype=np.int64)

        def put(rows: Floats, own: Floats, first: int) -> Floats:
            here = (first <= ids) & (ids < first + len(rows))
            if not here.any():
                return rows
            changed = rows.copy()
            changed[ids[here] - first] = values[here]
            return changed

        return put


@dataclass(frozen=True, slots=True)
class MergedTensor:
    """A tensor with changes, in order, each made in float32 when the tensor is read."""

    name: str
    base: Readable
    changes: tuple[Change, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the base."""
        return self.base.shape

    @property
    def itemsize(self) -> int:
        """Bytes of a float32."""
        return 4

    def named(self, name: str) -> Self:
        """The same tensor under another name."""
        return replace(self, name=name, base=self.base.named(name))

    def rows(self, rows_at_once: int) -> Iterator[npt.NDArray[Any]]:
        """The changed tensor in float32, at most so many rows at a time."""
        changes, first = [change.opened(self.base) for change in self.changes], 0
        for stored in self.base.rows(rows_at_once):
            own = stored.astype(np.float32)
            changed = own
            for change in changes:
                changed = change(changed, own, first)
            yield changed
            first += len(own)


def whole(tensor: StoredTensor) -> Floats:
    """A tensor in float32. Raises :class:`TensorError` for numbers that are not finite."""
    array = np.concatenate([part.astype(np.float32) for part in _parts(tensor)])
    if not np.isfinite(array).all():
        raise TensorError(
            f"tensor {name_of(tensor.name)} of {tensor.file.parent.name} holds numbers that are "
            "not finite, expected finite ones: the adapter is damaged"
        )
    return array


def _parts(tensor: Readable) -> Iterator[npt.NDArray[Any]]:
    row = max(1, prod(tensor.shape[1:]) * tensor.itemsize)
    return tensor.rows(max(1, _BYTES // row))
