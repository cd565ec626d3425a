"""The matrices of all adapters that a model has loaded, side by side, as its graphs take them.

A graph for the kernels takes one array of bytes, and a table that says where in it each adapter's
matrices are. Any other graph that takes adapters has two inputs for each module, in
which adapters stand side by side along the rank. Arrays change only between steps.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.adapter_facts import module_shapes
from sc2onnx.bundle.adapters import LANES, MODULES, matrix_name
from sc2onnx.bundle.facts import ModelFacts
from sc2onnx.bundle.kernels import (
    ADAPTER_OF_TOKEN,
    ADAPTER_SCALES,
    ADAPTER_TABLE,
    ADAPTER_WEIGHTS,
    PLACES,
    TILE,
    SegmentEntry,
    product_number,
)
from sc2onnx.errors import AdapterError
from sc2onnx.runtime.adapter import Adapted, Adapter
from sc2onnx.runtime.ort.adapter_file import Matrices

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]

Tokens = Sequence[tuple[Adapted | None, int]]
"""Of a pass, in order: how many tokens are computed with which adapter."""


class AdapterBank(ABC):
    """What adapters of a model there are. For whoever has the engine's turn, but :meth:`prepared`.

    An adapter stays until nobody has it any more: not the model, and no request under way.
    """

    def __init__(self, facts: ModelFacts) -> None:
        self.fixed: Arrays = {}
        """Inputs that are the same in every step, by name; empty before the first adapter."""
        self._facts = facts
        self._gone: deque[int] = deque()  # nobody has them any more; noted at any time
        self._held = dict[int, Any]()  # by number, in order

    @property
    def empty(self) -> bool:
        """Whether it holds no adapter."""
        return not self._held

    @property
    def nbytes(self) -> int:
        """Bytes that the matrices of all adapters take."""
        return sum(array.nbytes for array in self.fixed.values())

    @abstractmethod
    def prepared(self, matrices: Matrices) -> Any:
        """An adapter's matrices as this bank holds them. For any thread.
        Raises :class:`AdapterError`.
        """

    @staticmethod
    @abstractmethod
    def bytes_of(prepared: Any) -> int:
        """Bytes that what :meth:`prepared` gave takes."""

    @abstractmethod
    def _laid(self) -> Arrays:
        """Those of all, side by side."""

    @abstractmethod
    def feeds(self, tokens: Tokens) -> Arrays:
        """Inputs of one pass that say which token has which adapter; none before the first one."""

    def add(self, adapter: Adapter, prepared: Any) -> None:
        """Hold what :meth:`prepared` gave, as long as somebody has the adapter."""
        self._held[adapter.number] = prepared
        weakref.finalize(adapter, self._gone.append, adapter.number).atexit = False
        self.fixed = self._laid()

    def settle(self) -> bool:
        """Give the memory back of adapters that nobody has. Whether there were any."""
        before = len(self._held)
        while self._gone:
            self._held.pop(self._gone.popleft(), None)
        if len(self._held) == before:
            return False
        self.fixed = self._laid() if self._held else {}
        return True


class KernelBank(AdapterBank):
    """For the graphs of the kernels, see :data:`sc2onnx.bundle.kernels.ADAPTER_TABLE`."""

    def prepared(self, matrices: Matrices) -> tuple[Array, Array]:
        """The bytes of the matrices, and their table (products, segments, 5)."""
        segments = max(map(len, MODULES.values()))
        table = np.zeros((len(MODULES) * self._facts.num_layers, segments, 5), np.int64)
        parts, end = list[Array](), 0
        for (layer, module), (a, b) in matrices.items():
            product = next(name for name, modules in MODULES.items() if module in modules)
            segment = MODULES[product].index(module)
            first, outputs = self._outputs(product, segment)
            places = list[int]()
            for part in _packed(module, a.T, b.T):
                places.append(end)
                parts.append(_padded(part.reshape(-1).view(np.uint8), PLACES))
                end += len(parts[-1])
            entry = SegmentEntry(first, outputs, a.shape[1], *places)
            table[product_number(layer, product), segment] = entry
        return np.concatenate(parts), table

    @staticmethod
    def bytes_of(prepared: tuple[Array, Array]) -> int:
        """See :meth:`AdapterBank.bytes_of`."""
        return sum(array.nbytes for array in prepared)

    def _outputs(self, product: str, segment: int) -> tuple[int, int]:
        """The first output of a segment, and how many it has."""
        shapes = module_shapes(self._facts)
        outputs = [shapes[module][1] for module in MODULES[product]]
        if any(each % TILE for each in outputs):
            raise AdapterError(
                f"{product} has {outputs} outputs, and the kernels' adapters take multiples of "
                f"{TILE}: load with kernels='off', or merge the adapter at export"
            )
        return sum(outputs[:segment]), outputs[segment]

    def _laid(self) -> Arrays:
        weights = np.concatenate([packed for packed, _ in self._held.values()])
        tables, begin = list[Array](), 0
        for number, (packed, table) in list(self._held.items()):
            moved = table.copy()
            moved[..., 3:] += begin * (table[..., 2:3] > 0)  # a and b, where there is a rank
            tables.append(moved)
            size = len(packed)
            # the copies before are nobody's then
            self._held[number] = weights[begin : begin + size], table
            begin += size
        return {ADAPTER_TABLE: np.stack(tables), ADAPTER_WEIGHTS: weights}

    def feeds(self, tokens: Tokens) -> Arrays:
        """See :meth:`AdapterBank.feeds`."""
        if self.empty:
            return {}
        if all(adapted is None for adapted, _ in tokens):
            return {ADAPTER_OF_TOKEN: np.zeros(0, np.int64), ADAPTER_SCALES: _NO_SCALES}
        places = {number: place for place, number in enumerate(self._held)}
        found = [-1 if each is None else places[each.adapter.number] for each, _ in tokens]
        scales = np.array([1.0 if each is None else each.scale for each, _ in tokens], np.float32)
        counts = [count for _, count in tokens]
        return {
            ADAPTER_OF_TOKEN: np.repeat(np.array(found, np.int64), counts),
            ADAPTER_SCALES: _NO_SCALES if (scales == 1).all() else np.repeat(scales, counts),
        }


_NO_SCALES: Final = np.zeros(0, np.float32)


class LaneBank(AdapterBank):
    """For graphs of other operators, see :mod:`sc2onnx.bundle.adapters`.

    An adapter has as many lanes as its largest rank, in each module that any adapter is of; where
    it has a lower rank there, or none, it has zeros.
    """

    def __init__(self, facts: ModelFacts, dtype: str) -> None:
        """``dtype``: of the activations: float32, float16 or bfloat16."""
        super().__init__(facts)
        self._dtype = dtype
        self._lanes = dict[int, slice]()  # of each adapter, by number

    def prepared(self, matrices: Matrices) -> dict[tuple[int, str], tuple[Array, Array]]:
        """``A`` (inputs, rank) and ``B`` (rank, outputs) by layer and module."""
        return {
            (layer, module): (self._cast(module, a), self._cast(module, b))
            for (layer, module), (a, b) in matrices.items()
        }

    @staticmethod
    def bytes_of(prepared: Mapping[tuple[int, str], tuple[Array, Array]]) -> int:
        """See :meth:`AdapterBank.bytes_of`."""
        return sum(matrix.nbytes for pair in prepared.values() for matrix in pair)

    def _cast(self, module: str, matrix: Array) -> Array:
        if self._dtype != "bfloat16":
            return _finite(module, matrix, np.dtype(self._dtype))
        bits = np.ascontiguousarray(matrix, np.float32).view(np.uint32)
        # to the nearest, of two the even one
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
        return rounded.astype(np.uint16)

    def _laid(self) -> Arrays:
        found, end = dict[str, Array](), 0
        self._lanes = {}
        for number, pairs in self._held.items():
            begin, end = end, end + max(a.shape[1] for a, _ in pairs.values())
            self._lanes[number] = slice(begin, end)
        modules = {key for pairs in self._held.values() for key in pairs}
        kind = np.dtype(np.uint16 if self._dtype == "bfloat16" else self._dtype)
        for layer in range(self._facts.num_layers):
            for module, (inputs, outputs) in module_shapes(self._facts).items():
                lanes = end if (layer, module) in modules else 0
                a, b = np.zeros((inputs, lanes), kind), np.zeros((lanes, outputs), kind)
                self._fill((layer, module), a, b)
                found[matrix_name(layer, module, "A")] = a
                found[matrix_name(layer, module, "B")] = b
        return found

    def _fill(self, key: tuple[int, str], a: Array, b: Array) -> None:
        """Put the matrices of one module side by side, and hold them there."""
        for number, lanes in self._lanes.items():
            pairs = self._held[number]
            if key in pairs:
                own = slice(lanes.start, lanes.start + pairs[key][0].shape[1])
                a[:, own], b[own] = pairs[key]
                pairs[key] = a[:, own], b[own]

    def feeds(self, tokens: Tokens) -> Arrays:
        """See :meth:`AdapterBank.feeds`."""
        if self.empty:
            return {}
        end, first = max(each.stop for each in self._lanes.values()), 0
        lanes = np.zeros((sum(count for _, count in tokens), end), np.float32)
        for adapted, count in tokens:
            if adapted is not None:
                own = self._lanes[adapted.adapter.number]
                lanes[first : first + count, own] = adapted.scale
            first += count
        return {LANES: self._cast("lanes", lanes)}


def _packed(module: str, a: Array, b: Array) -> tuple[Array, Array]:
    """``A`` (rank, inputs) in int8 and ``B`` (outputs, rank) in half precision, in tiles.

    Each column of ``B`` is scaled so that its largest number is about 1: numbers below 6e-5 would
    lose digits. What that takes is in the scales of ``A``.
    """
    a = _finite(module, a, np.dtype(np.float32))
    sizes = np.abs(b.astype(np.float32)).max(axis=0, initial=0)
    _, powers = np.frexp(np.where(sizes > 0, sizes, 1))
    halves = _finite(module, np.ldexp(b.astype(np.float32), -powers), np.dtype(np.float16))
    tiles = np.ascontiguousarray(halves.reshape(-1, TILE, len(a)).transpose(0, 2, 1))
    return _rounded(_finite(module, np.ldexp(a, powers[:, None]), a.dtype)), tiles


def _rounded(a: Array) -> Array:
    """``A`` (rank, inputs) in tiles of int8 with a scale for each rank: uint8 (bytes,)."""
    rank, inputs = a.shape
    whole = np.zeros((-(-rank // TILE) * TILE, inputs), np.float32)
    whole[:rank] = a
    scales = np.abs(whole).max(axis=1, keepdims=True) / np.float32(127)
    codes = np.rint(whole / np.where(scales > 0, scales, 1)).astype(np.int8).view(np.uint8) ^ 128
    tiles = codes.reshape(-1, TILE, inputs // 4, 4).transpose(0, 2, 1, 3)
    parts = [tiles.reshape(-1, TILE * inputs), scales.reshape(-1, TILE).view(np.uint8)]
    return np.concatenate(parts, axis=1)


def _finite(module: str, matrix: Array, kind: np.dtype[Any]) -> Array:
    """A matrix in another type. Raises :class:`AdapterError` for numbers beyond its range."""
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(matrix, kind)
    if not np.isfinite(cast).all():
        raise AdapterError(
            f"the adapter's {module} has numbers beyond the range of {kind}: merge it at export "
            "(sc2onnx export --adapter)"
        )
    return cast


def _padded(numbers: Array, multiple: int) -> Array:
    """With zeros up to a multiple."""
    return np.pad(numbers, (0, -len(numbers) % multiple))
