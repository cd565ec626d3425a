"""Which device a bundle runs on, and what there is of NVIDIA's driver. Looks at the machine; imports nothing that needs a GPU."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sc2onnx.errors import DeviceError
from sc2onnx.runtime.arguments import shown

_NAMED: Final = re.compile(r"cpu|cuda(?::(\d{1,3}))?")


@dataclass(frozen=True, slots=True)
class Device:
    """A processor, or the ``index``-th GPU that CUDA shows."""

    kind: Literal["cpu", "cuda"] = "cpu"
    index: int = 0

    @classmethod
    def named(cls, name: object) -> Device:
        """``cpu``, ``cuda`` or ``cuda:1``. Raises :class:`DeviceError` for anything else."""
        found = _NAMED.fullmatch(name) if isinstance(name, str) else None
        if found is None:
            raise DeviceError(f"device is {shown(name)}, expected 'cpu', 'cuda', 'cuda:1' (the second GPU) or 'auto'")
        return cls("cpu") if name == "cpu" else cls("cuda", int(found[1] or 0))

    @property
    def away(self) -> bool:
        """Whether its memory is not the processors'."""
        return self.kind != "cpu"

    def __str__(self) -> str:
        """As it is named."""
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


@dataclass(frozen=True, slots=True)
class Driver:
    """NVIDIA's driver: how many GPUs it shows, and the CUDA version that it runs, such as (13, 0)."""

    devices: int
    cuda: tuple[int, int]


def driver() -> Driver | str:
    """The driver of this machine, or what is the matter with it."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError:
        return f"there is no NVIDIA driver ({name} is not to be found): install it, or check that the container is given the GPU"
    if status := library.cuInit(0):
        return f"the NVIDIA driver does not start (cuInit gives {status}): see what nvidia-smi says, and whether CUDA_VISIBLE_DEVICES names a GPU"
    version, count = ctypes.c_int(), ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    library.cuDeviceGetCount(ctypes.byref(count))
    return Driver(count.value, (version.value // 1000, version.value % 1000 // 10))


def unsuitable(found: Driver | str, device: Device, needed: tuple[int, ...]) -> str | None:
    """Why a driver cannot run ``device`` for an onnxruntime built for CUDA ``needed`` (empty: not known); None if it can."""
    if isinstance(found, str):
        return found
    if needed and found.cuda[0] < needed[0]:
        shown = ".".join(map(str, found.cuda))
        return f"the NVIDIA driver runs CUDA {shown} at most, and onnxruntime-gpu was built for CUDA {needed[0]}: update the driver"
    if device.index >= found.devices:
        there = f"{found.devices} GPU" if found.devices == 1 else f"{found.devices} GPUs"
        return f"there is no {device}: the driver shows {there} (CUDA_VISIBLE_DEVICES may hide some)"
    return None


def cuda_libraries(major: int) -> tuple[str, ...]:
    """What the CUDA provider links of NVIDIA's libraries on Linux, for a major version of CUDA; cuDNN only helps where it is there."""
    return (f"libcudart.so.{major}", f"libcublas.so.{major}", f"libcublasLt.so.{major}", "libcurand.so.10")


def missing_libraries(names: Sequence[str]) -> list[str]:
    """Those of the shared libraries that the system's loader does not find, loaded ones counted as there."""
    missing = []
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError:
            missing.append(name)
    return missing
