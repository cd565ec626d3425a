"""Where the buffers of a cache lie."""

from __future__ import annotations

from typing import Any, Protocol

import numpy.typing as npt


class Storage(Protocol):
    """Where buffers lie. What it gives for an array has its ``shape``, and is
    not otherwise looked into.
    """

    def put(self, number: int, array: npt.NDArray[Any]) -> Any:
        """The ``number``-th buffer, with these contents; the array is given up."""
        ...

    def get(self, number: int, buffer: Any) -> npt.NDArray[Any]:
        """The contents of the ``number``-th buffer; they are not written to."""
        ...


class InMemory:
    """Buffers are the arrays themselves."""

    def put(self, number: int, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The array."""
        return array

    def get(self, number: int, buffer: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The array."""
        return buffer
