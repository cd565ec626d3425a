"""CUDA: NVIDIA's driver and libraries, ONNX Runtime's provider for them, and whether
graphs are computed there.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sc2onnx.errors import DeviceError
from sc2onnx.hints import install
from sc2onnx.runtime.ort.devices import Device
from sc2onnx.runtime.ort.library import ort


@dataclass(frozen=True, slots=True)
class Driver:
    """NVIDIA's driver: how many GPUs it shows, and the CUDA version that
    it runs, such as (13, 0).
    """

    devices: int
    cuda: tuple[int, int]


def driver() -> Driver | str:
    """The driver of this machine, or what is the matter with it."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError:
        return (
            f"there is no NVIDIA driver ({name} is not to be found): install it, or check that the "
            "container is given the GPU"
        )
    if status := library.cuInit(0):
        return (
            f"the NVIDIA driver does not start (cuInit gives {status}): see what nvidia-smi says, "
            "and whether CUDA_VISIBLE_DEVICES names a GPU"
        )
    version, count = ctypes.c_int(), ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    library.cuDeviceGetCount(ctypes.byref(count))
    return Driver(count.value, (version.value // 1000, version.value % 1000 // 10))


def unsuitable(found: Driver | str, device: Device, needed: tuple[int, ...]) -> str | None:
    """Why a driver cannot run ``device`` for an onnxruntime built for CUDA ``needed`` (empty:
    not known); None if it can.
    """
    if isinstance(found, str):
        return found
    if needed and found.cuda[0] < needed[0]:
        shown = ".".join(map(str, found.cuda))
        return (
            f"the NVIDIA driver runs CUDA {shown} at most, and onnxruntime-gpu was built for CUDA "
            f"{needed[0]}: update the driver"
        )
    if device.index >= found.devices:
        there = f"{found.devices} GPU" if found.devices == 1 else f"{found.devices} GPUs"
        return (
            f"there is no {device}: the driver shows {there} (CUDA_VISIBLE_DEVICES may hide some)"
        )
    return None


def cuda_libraries(major: int) -> tuple[str, ...]:
    """What the CUDA provider links of NVIDIA's libraries on Linux, for a major version of CUDA;
    cuDNN only helps where it is there.
    """
    return (
        f"libcudart.so.{major}",
        f"libcublas.so.{major}",
        f"libcublasLt.so.{major}",
        "libcurand.so.10",
    )


def missing_libraries(names: Sequence[str]) -> list[str]:
    """Those of the shared libraries that the system's loader does not find,
    loaded ones counted as there.
    """
    missing = []
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError:
            missing.append(name)
    return missing


def check_cuda(device: Device) -> None:
    """Raise :class:`DeviceError`, saying what is missing, unless onnxruntime
    can run graphs on this GPU.

    Its warnings are off from then on: 1.31 warns, at every load, that its provider is not
    the plugin of the same name.
    """
    ort.set_default_logger_severity(_ERROR)
    if reason := cuda_trouble(device):
        raise DeviceError(f"device is '{device}', which does not work here: {reason}")


def cuda_trouble(device: Device) -> str | None:
    """What stands in the way of a GPU: onnxruntime, the driver, the device, or a library.
    None: nothing that can be seen from here.
    """
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return (
            f"the installed onnxruntime {ort.__version__} is the one without CUDA: pip uninstall "
            f"onnxruntime, then {install('gpu')}"
        )
    needed = tuple(
        int(part)
        for part in str(getattr(ort, "cuda_version", "") or "").split(".")
        if part.isdigit()
    )
    if reason := unsuitable(driver(), device, needed):
        return reason
    preload_libraries()
    missing = (
        missing_libraries(cuda_libraries(needed[0])) if needed and sys.platform != "win32" else []
    )
    if missing:
        return (
            f"{', '.join(missing)} cannot be loaded, which onnxruntime-gpu for CUDA {needed[0]} "
            f"needs: {install('gpu')}"
        )
    return None


@functools.cache
def preload_libraries() -> None:
    """Load the libraries of pip's ``nvidia-*`` packages, so that the provider finds
    them; torch has no part in it.
    """
    if hasattr(ort, "preload_dlls"):
        # it prints what it misses; what matters of that is said by cuda_trouble
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls(directory="")


def provider_of(device: Device, captures: bool) -> Any:
    """The execution provider of a device, as onnxruntime is told of it."""
    if device.kind == "cpu":
        return "CPUExecutionProvider"
    return "CUDAExecutionProvider", {
        "device_id": str(device.index),
        "enable_cuda_graph": "1" if captures else "0",
    }


def captures_graphs(session: ort.InferenceSession, device: Device) -> bool:
    """Whether its provider was told to capture CUDA graphs; what is only called away
    captures nothing, and is told so.
    """
    return (
        device.kind != "cuda"
        or session.get_provider_options()["CUDAExecutionProvider"].get("enable_cuda_graph") == "1"
    )


def check_on_device(session: ort.InferenceSession, device: Device) -> None:
    """Raise :class:`DeviceError` if a node that computes was left to the CPU.
    Arithmetic of shapes belongs there.
    """
    if "CUDAExecutionProvider" not in session.get_providers():
        raise DeviceError(
            f"onnxruntime could not start its CUDA provider on {device}: {_LIBRARIES}"
        )
    left = nodes_left_to_cpu(session)
    if left:
        shown = ", ".join(left[:4]) + (", ..." if len(left) > 4 else "")
        raise DeviceError(
            f"{len(left)} nodes of the graph would run on the CPU instead of {device} ({shown}): "
            f"onnxruntime-gpu {ort.__version__} has no CUDA kernels for them, upgrade it, or "
            "export the bundle again with this version"
        )


def nodes_left_to_cpu(session: ort.InferenceSession) -> list[str]:
    """Names of the nodes that its CPU provider computes, but for arithmetic of shapes.
    Needs ``record_ep_graph_assignment_info``.
    """
    subgraphs = [
        part
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name == "CPUExecutionProvider"
    ]
    nodes = [node for part in subgraphs for node in part.get_nodes()]
    return [f"{node.op_type} {node.name}".strip() for node in nodes if node.op_type not in _SHAPES]


_SHAPES: Final = frozenset({"Shape", "Squeeze", "Unsqueeze", "Concat", "Cast", "Sub"})
"""What graphs compute of shapes; ONNX Runtime does it on the CPU, where the shapes are."""

_ERROR: Final = 3
"""What onnxruntime calls severe enough."""

_LIBRARIES: Final = "`sc2onnx doctor` says which of its libraries is missing"
