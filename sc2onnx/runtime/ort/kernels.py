"""The optional library of our own kernels, ``sc2onnx-kernels``: whether it can be used
here, and for which graphs.

It is a shared library of ONNX Runtime's custom operators. A bundle of integers for the CPU has a
second graph for it, beside the one that runs everywhere; the library also packs weights as its
kernels read them (:mod:`sc2onnx.runtime.ort.packing`).
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.kernels import MODULE, OLDEST, VARIABLE, VERSION, WITH_ADAPTERS, runs
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import MissingDependencyError, RequestError
from sc2onnx.hints import KERNELS
from sc2onnx.runtime.arguments import one_of
from sc2onnx.runtime.cache.slots import SlotType
from sc2onnx.runtime.ort.devices import Device
from sc2onnx.runtime.ort.library import ort

Use = Literal["auto", "on", "off"]
"""``auto`` runs on the kernels where a bundle has graphs for them and they are installed; ``on``
fails where that is not so; ``off`` does not.
"""

CacheType = Literal["auto", "int8", "float32"]
"""What the kernels keep of keys and values; ``auto`` is int8."""

_PACKAGE: Final = "sc2onnx-kernels"


@dataclass(frozen=True, slots=True)
class MatrixShape:
    """A matrix of integers: (``rows``, ``columns``) codes of so many ``bits``, and a scale for each
    ``block`` of a row, float32 of 4 bytes or bfloat16 of 2.
    """

    rows: int
    columns: int
    bits: int
    block: int
    scale_bytes: int

    @property
    def codes(self) -> int:
        """Bytes of the codes."""
        return self.rows * self.columns * self.bits // 8

    @property
    def scales(self) -> int:
        """Bytes of the scales."""
        return self.rows * self.columns // self.block * self.scale_bytes


@dataclass(frozen=True, slots=True)
class Kernels:
    """The library, loaded. ``layout``: version of how it packs weights, which is
    the same on all processors; ``operators``: the latest version of the operators that it has.
    """

    path: Path
    version: str
    instructions: str
    layout: int
    operators: int
    library: Any = field(repr=False, compare=False)

    def packed_bytes(self, shape: MatrixShape) -> int:
        """Bytes of a packed matrix. Raises :class:`ValueError` for one
        that no kernel computes with.
        """
        size = int(self.library.sc2onnx_kernels_packed_bytes(*astuple(shape)))
        if size < 0:
            raise ValueError(f"{_PACKAGE} {self.version} has no kernel for {shape}")
        return size

    def packed(
        self,
        shape: MatrixShape,
        codes: npt.NDArray[np.uint8],
        scales: npt.NDArray[np.uint8],
        threads: int,
    ) -> npt.NDArray[np.uint8]:
        """A matrix as the kernels read it: its bytes, made of those of its codes and its scales.
        Raises :class:`ValueError`.
        """
        if (codes.nbytes, scales.nbytes) != (shape.codes, shape.scales):
            raise ValueError(
                f"codes and scales of {shape} have {codes.nbytes} and {scales.nbytes} bytes, "
                f"expected {shape.codes} and {shape.scales}"
            )
        out = np.empty(self.packed_bytes(shape), np.uint8)
        arrays = (np.ascontiguousarray(codes), np.ascontiguousarray(scales))
        places = (array.ctypes.data for array in arrays)
        if self.library.sc2onnx_kernels_pack(*places, *astuple(shape), threads, out.ctypes.data):
            raise ValueError(f"{_PACKAGE} {self.version} did not pack {shape}")
        return out


@dataclass(frozen=True, slots=True)
class Missing:
    """Why there is no library."""

    reason: str


@functools.cache
def look() -> Kernels | Missing:
    """The library of this process, looked for once."""
    try:
        module = importlib.import_module(MODULE)
    except ImportError:
        return Missing(f"{_PACKAGE} is not installed")
    except Exception as error:  # it is somebody else's code
        return Missing(f"{_PACKAGE} cannot be imported ({error})")
    version, operators = (
        str(getattr(module, "__version__", "of unknown version")),
        getattr(module, "OPERATORS", 0),
    )
    if not runs(operators):
        age = (
            f"too {'old' if operators < VERSION else 'new'} (its operators are of version "
            f"{operators}, expected {OLDEST} to {VERSION})"
        )
        return Missing(f"{_PACKAGE} {version} is {age}")
    try:
        path = Path(module.library())
        library = _declared(ctypes.CDLL(os.fspath(path)))
        ort.SessionOptions().register_custom_ops_library(os.fspath(path))
    except AttributeError as error:
        # what ctypes says of a function that is not there, and Python of one
        return Missing(f"{_PACKAGE} {version} is too old ({error})")
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        return Missing(
            f"{_PACKAGE} {version} cannot be loaded by onnxruntime {ort.__version__} ({error})"
        )
    return Kernels(
        path,
        version,
        library.sc2onnx_kernels_instructions().decode(),
        library.sc2onnx_kernels_layout(),
        operators,
        library,
    )


def _declared(library: Any) -> Any:
    """The library with the types of its functions.
    Raises :class:`AttributeError` where one is missing.
    """
    sizes = [ctypes.c_int64, ctypes.c_int64, *[ctypes.c_int32] * 3]
    library.sc2onnx_kernels_instructions.argtypes, library.sc2onnx_kernels_instructions.restype = (
        [],
        ctypes.c_char_p,
    )
    library.sc2onnx_kernels_layout.argtypes, library.sc2onnx_kernels_layout.restype = (
        [],
        ctypes.c_int32,
    )
    library.sc2onnx_kernels_packed_bytes.argtypes, library.sc2onnx_kernels_packed_bytes.restype = (
        sizes,
        ctypes.c_int64,
    )
    pointers = [ctypes.c_void_p, ctypes.c_void_p, *sizes, ctypes.c_int32, ctypes.c_void_p]
    library.sc2onnx_kernels_pack.argtypes, library.sc2onnx_kernels_pack.restype = (
        pointers,
        ctypes.c_int32,
    )
    return library


def look_for(manifest: Manifest) -> Kernels | Missing:
    """The library of this process, if it has the operators that a bundle's graphs are
    written for.
    """
    found = look()
    if isinstance(found, Missing) or manifest.kernels <= found.operators:
        return found
    return Missing(
        f"{_PACKAGE} {found.version} is too old for the bundle (its operators are of version "
        f"{found.operators}, the bundle's graph is for version {manifest.kernels})"
    )


def check_adapters(manifest: Manifest) -> None:
    """Raise :class:`RequestError` for a bundle whose graphs for the kernels take no adapters."""
    if manifest.kernels < WITH_ADAPTERS:
        raise RequestError(
            f"the bundle's graph for the kernels is for version {manifest.kernels} of them, "
            f"adapters need {WITH_ADAPTERS}: export the bundle again with this version"
        )


def usable(use: Use, manifest: Manifest, devices: Sequence[Device] = ()) -> Kernels | None:
    """The library, if the bundle is to run on it. ``devices``: of its graphs; none: the CPU.

    Raises :class:`RequestError` and :class:`MissingDependencyError` where ``on`` cannot be.
    """
    use = meant(use)
    if use == "off":
        return None
    found, trouble = look_for(manifest), _trouble(manifest, devices)
    if isinstance(found, Kernels) and not trouble:
        return found
    if use == "auto":
        return None
    if trouble:
        raise RequestError(
            f"kernels is 'on', and {trouble}: export it for target cpu in int8 or int4 with this "
            "version, or leave kernels out"
        )
    assert isinstance(found, Missing)
    raise MissingDependencyError(f"kernels is 'on', and {found.reason}: {KERNELS}")


def meant(use: Use) -> Use:
    """What is asked for; for ``auto``, what the environment says."""
    one_of("kernels", use, get_args(Use))
    said = os.environ.get(VARIABLE, "")
    if use != "auto" or not said:
        return use
    if said not in get_args(Use):
        raise RequestError(f"{VARIABLE} is {said!r}, expected 'auto', 'on' or 'off'")
    return said  # type: ignore[return-value]  # one of them


def _trouble(manifest: Manifest, devices: Sequence[Device]) -> str:
    """Why a bundle does not run on the kernels, whether or not they are
    installed; empty: it does.
    """
    if any(device.on_gpu for device in devices):
        return "they are for the CPU, not for a GPU"
    if manifest.kernel_graphs:
        return ""
    has = (
        f"graphs for version {manifest.kernels} of them"
        if manifest.kernels
        else "no graph for them"
    )
    return f"the bundle ({manifest.precision} for {manifest.target}) has {has}"


def kept_slots(cache_type: CacheType) -> SlotType:
    """What the kernels keep of keys and values. Raises :class:`RequestError` for other words."""
    one_of("cache_type", cache_type, get_args(CacheType))
    return "int8" if cache_type == "auto" else cache_type


def check_cache_type(cache_type: CacheType, dtype: str) -> None:
    """Raise :class:`RequestError` for what only the kernels keep; ``dtype``:
    of the graph's own cache.
    """
    one_of("cache_type", cache_type, get_args(CacheType))
    if cache_type not in ("auto", dtype):
        raise RequestError(
            f"cache_type is {cache_type!r}, and without kernels the cache is {dtype}: load with "
            "kernels='on', or leave cache_type out"
        )
