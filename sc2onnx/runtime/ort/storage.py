"""Caches on devices: each layer's buffers where its stage runs."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sc2onnx.runtime.forks import Process, keep_for_ever
from sc2onnx.runtime.ort.bound_graph import BFLOAT16
from sc2onnx.runtime.ort.devices import Device
from sc2onnx.runtime.ort.library import ort


@dataclass(frozen=True)
class DeviceBuffer:
    """Part of a cache on a device. ``element``: of what numpy or ONNX type it is."""

    value: ort.OrtValue
    shape: tuple[int, ...]
    element: Any

    @property
    def address(self) -> int:
        """Where it lies."""
        return int(self.value.data_ptr())


class Storages:
    """The caches of a model, each layer's where its stage runs.

    Buffers that are given up are used again, those of one cache together: a CUDA
    graph belongs to addresses.
    """

    _FREE: Final = 2
    """Sets of buffers of one size that wait to be used again."""

    def __init__(self, devices: Sequence[Device], counts: Sequence[int]) -> None:
        # by buffer
        self._devices = [
            device for device, count in zip(devices, counts, strict=True) for _ in range(2 * count)
        ]
        self._free: dict[tuple[Any, ...], list[tuple[int, ort.OrtValue]]] = {}
        self._made: dict[tuple[Any, ...], int] = {}
        self._lock, self._process = threading.RLock(), Process.here()

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU among its devices."""
        return any(device.on_gpu for device in self._devices)

    def put(self, number: int, array: npt.NDArray[Any]) -> Any:
        """A buffer of layer ``number // 2`` with these contents."""
        device = self._devices[number]
        if not device.on_gpu:
            return array
        key = (number, array.shape, array.dtype.str)
        with self._lock:
            waiting = self._free.get(key, [])
            order, value = waiting.pop(0) if waiting else (self._made.get(key, 0), None)
            if value is None:
                self._made[key] = order + 1
        if value is None:
            value = ort_value(array, device)
        else:
            value.update_inplace(np.ascontiguousarray(array))
        buffer = DeviceBuffer(
            value, array.shape, BFLOAT16 if array.dtype == np.uint16 else array.dtype.type
        )
        weakref.finalize(buffer, self._release, key, order, value).atexit = False
        return buffer

    def get(self, number: int, buffer: Any) -> npt.NDArray[Any]:
        """The contents of a buffer."""
        return buffer if isinstance(buffer, np.ndarray) else np.asarray(buffer.value.numpy())

    def _release(self, key: tuple[Any, ...], order: int, value: ort.OrtValue) -> None:
        if self._process.forked:  # where the device cannot be used, not even to free what is on it
            keep_for_ever(value)
            return
        with self._lock:
            waiting = self._free.setdefault(key, [])
            waiting.append((order, value))
            waiting.sort(key=lambda entry: entry[0])
            del waiting[self._FREE :]


def tensor(array: npt.NDArray[Any]) -> ort.OrtValue:
    """An array as onnxruntime holds it in memory; uint16 is bfloat16."""
    if array.dtype == np.uint16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(
            np.ascontiguousarray(array), BFLOAT16
        )
    return ort_value(array, Device())


def ort_value(array: npt.NDArray[Any], device: Device) -> ort.OrtValue:
    """An array as onnxruntime holds it on a device."""
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device.kind, device.index)
