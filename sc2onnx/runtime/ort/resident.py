"""Values that stay on a device between steps, at addresses that stay, as captured CUDA graphs need
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from sc2onnx.runtime.ort.devices import Device


class Resident:
    """Values that stay on a device, by name and shape.
    ``number``: of the CUDA graph that reads and writes them; -1 for none.
    """

    def __init__(
        self, new_value: Callable[[npt.NDArray[Any], Device], Any], device: Device, number: int = -1
    ) -> None:
        self.number = number
        self._new_value, self._device = new_value, device
        self._values: dict[tuple[Any, ...], Any] = {}

    def filled(self, name: str, array: npt.NDArray[Any]) -> Any:
        """The value of that name and shape, with these contents."""
        key = (name, array.shape)
        if key in self._values:
            self._values[key].update_inplace(array)
        else:
            self._values[key] = self._new_value(array, self._device)
        return self._values[key]

    def place(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        """The value of that name and shape, with whatever it holds."""
        key = (name, shape)
        if key not in self._values:
            self._values[key] = self._new_value(np.zeros(shape, dtype), self._device)
        return self._values[key]
