"""How many bits an integer weight has, and how many of them share a scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sc2onnx.errors import RequestError

BITS: Final = (4, 8)
BLOCK_SIZES: Final = (16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class Scheme:
    """Block-wise symmetric integers: ``bits`` per code, and ``block_size`` inputs to a scale.

    Raises :class:`~sc2onnx.errors.RequestError` for sizes other than :data:`BITS` and
    :data:`BLOCK_SIZES`.
    """

    bits: int
    block_size: int

    def __post_init__(self) -> None:
        if self.bits not in BITS or self.block_size not in BLOCK_SIZES:
            sizes = ", ".join(map(str, BLOCK_SIZES))
            expected = f"{' or '.join(map(str, BITS))} bits in blocks of {sizes}"
            found = f"quantisation is {self.bits} bits in blocks of {self.block_size}"
            raise RequestError(f"{found}, expected {expected}")

    def __str__(self) -> str:
        """The scheme for a person: ``int4 in blocks of 128``."""
        return f"int{self.bits} in blocks of {self.block_size}"

    @property
    def half(self) -> int:
        """Magnitude of the lowest code, and zero point of the packed form, which is unsigned."""
        return 1 << (self.bits - 1)

    def check_columns(self, name: str, columns: int) -> None:
        """Raise :class:`~sc2onnx.errors.RequestError` unless blocks divide the inputs of a weight.

        Kernels for a last, shorter block are slow or absent.
        """
        if columns % self.block_size:
            fitting = ", ".join(str(size) for size in BLOCK_SIZES if columns % size == 0)
            advice = "no block size does, export it in floats"
            if fitting:
                advice = f"choose a recipe with another block size (those that do: {fitting})"
            found = f"{name} has {columns} inputs, which blocks of {self.block_size} do not divide"
            raise RequestError(f"{found}: {advice}")

    def nbytes(self, rows: int, columns: int, scale: int = 4) -> int:
        """Bytes of a packed (rows, columns) matrix and its scales of ``scale`` bytes each."""
        return rows * (columns * self.bits // 8 + columns // self.block_size * scale)
