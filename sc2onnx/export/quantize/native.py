"""What our kernels compute of a calibration where ``sc2onnx-kernels`` is installed: products of the
rounded model, with activations in int8 as at run time, and the columns that are rounded one by one.

Nobody needs them: :mod:`sc2onnx.export.quantize.forward` and
:mod:`sc2onnx.export.quantize.rounding` have the same in numpy, which takes longer.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

import ml_dtypes
import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.kernels import MODULE, VARIABLE
from sc2onnx.export.quantize.codec import Floats, Quantised, pack, processors

_ALIGNMENT: Final = 64
_SCALE_BYTES: Final = 2

_SIZE, _NUMBER, _PLACE = ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p
_MATRIX: Final = (_SIZE, _SIZE, _NUMBER, _NUMBER, _NUMBER)
_FUNCTIONS: Final = {
    "packed_bytes": (_SIZE, _MATRIX),
    "pack": (_NUMBER, (_PLACE, _PLACE, *_MATRIX, _NUMBER, _PLACE)),
    "multiply": (
        _NUMBER,
        (_PLACE, *_MATRIX, _PLACE, _SIZE, _PLACE, _NUMBER, _NUMBER, _PLACE),
    ),
    "settle": (
        _NUMBER,
        (
            *(_SIZE, _SIZE, _PLACE, _PLACE, _PLACE, _PLACE, _SIZE, _PLACE, _SIZE, _PLACE, _PLACE),
            *(_SIZE, ctypes.c_float, ctypes.c_float),
        ),
    ),
    "descend": (
        _NUMBER,
        (*(_SIZE,) * 5, *(_PLACE,) * 6, ctypes.c_float, ctypes.c_float, _NUMBER),
    ),
}
"""Name -> what a function returns and takes; native/src/library.cpp."""


@dataclass(frozen=True, slots=True)
class Native:
    """The functions of the library that a calibration calls, by name."""

    functions: dict[str, Any]

    def settle(
        self,
        aims: Floats,
        rows: tuple[Floats, Floats, Floats],
        changes: Floats,
        scales: Floats,
        steps: Floats,
        limits: tuple[float, float],
    ) -> None:
        """Round a few columns (columns, outputs), the last one first.

        ``rows``: target, codes and errors, which have one stride; ``scales`` (outputs,); ``steps``
        (columns, columns): what a change of one column's error adds to the aims of those before it.
        Everything is float32; aims are used up.
        """
        columns, outputs = aims.shape
        target, codes, errors = rows
        aims, steps = np.ascontiguousarray(aims), np.ascontiguousarray(steps)
        in_one_piece = (array.strides[-1] == array.itemsize for array in (*rows, changes, scales))
        assert outputs == 1 or all(in_one_piece)
        status = self.functions["settle"](
            *(columns, outputs, _at(aims), _at(target), _at(codes), _at(errors)),
            *(_stride(target), _at(changes), _stride(changes), _at(scales)),
            *(_at(steps), _stride(steps), *limits),
        )
        _check(status)

    def descend(
        self,
        rows: tuple[Floats, Floats, Floats],
        scales: Floats,
        covariance: Floats,
        limits: tuple[float, float],
        share: tuple[slice, Floats] | None = None,
    ) -> None:
        """One round of :func:`sc2onnx.export.quantize.rounding.coordinate_descent`.

        ``rows``: target, codes and errors (in, out); ``scales`` (in / block_size, out); ``share``:
        some of the outputs, and how much of every output's errors they make up for, (out, some).
        Everything is float32.
        """
        inputs, outputs = rows[0].shape
        here, shares = (slice(0, outputs), None) if share is None else share
        covariance = covariance if covariance.flags.c_contiguous else covariance.T
        assert all(array.flags.c_contiguous for array in (*rows, scales, covariance))
        assert shares is None or shares.flags.c_contiguous
        status = self.functions["descend"](
            *(inputs, outputs, inputs // len(scales), here.start, here.stop, _at(covariance)),
            *(*map(_at, rows), _at(scales), None if shares is None else _at(shares)),
            *(*limits, processors()),
        )
        _check(status)

    def product(self, quantised: Quantised, bias: Floats | None) -> IntegerProduct | None:
        """The product with a rounded matrix; None if no kernel computes with it."""
        scheme, (outputs, inputs) = quantised.scheme, quantised.codes.shape
        matrix = outputs, inputs, scheme.bits, scheme.block_size, _SCALE_BYTES
        size = self.functions["packed_bytes"](*matrix)
        if size < 0:
            return None
        room = np.empty(size + _ALIGNMENT, dtype=np.uint8)
        first = -_at(room) % _ALIGNMENT
        packed = room[first : first + size]
        codes = np.ascontiguousarray(pack(quantised.codes, scheme))
        scales = np.ascontiguousarray(quantised.scales.astype(ml_dtypes.bfloat16))
        status = self.functions["pack"](
            _at(codes), _at(scales.view(np.uint16)), *matrix, processors(), _at(packed)
        )
        _check(status)
        return IntegerProduct(self, quantised, packed, matrix, bias)


@dataclass(frozen=True, slots=True)
class IntegerProduct:
    """``x W^T + b`` as the runtime's kernels compute it: W in integers, each block of x rounded to
    int8. ``gelu``: through GELU in the approximation by tanh.
    """

    native: Native = field(repr=False)
    quantised: Quantised
    packed: npt.NDArray[np.uint8]
    matrix: tuple[int, ...]
    bias: Floats | None
    gelu: bool = False

    def __call__(self, x: Floats) -> Floats:
        """(..., in) -> (..., out)."""
        rows = np.ascontiguousarray(x.reshape(-1, x.shape[-1]), dtype=np.float32)
        y = np.empty((len(rows), self.matrix[0]), dtype=np.float32)
        bias = None if self.bias is None else np.ascontiguousarray(self.bias, dtype=np.float32)
        status = self.native.functions["multiply"](
            *(_at(self.packed), *self.matrix, _at(rows), len(rows)),
            *(None if bias is None else _at(bias), int(self.gelu), processors(), _at(y)),
        )
        _check(status)
        return y.reshape(*x.shape[:-1], -1)

    def part(self, outputs: slice) -> IntegerProduct:
        """Some of its outputs."""
        some = Quantised(
            self.quantised.codes[outputs], self.quantised.scales[outputs], self.quantised.scheme
        )
        part = self.native.product(some, None if self.bias is None else self.bias[outputs])
        assert part is not None
        return part

    def through_gelu(self) -> Self:
        """Return this product followed by GELU, in the approximation by tanh."""
        return replace(self, gelu=True)


def look() -> Native | None:
    """The library, if it is installed, has all of this, and is not turned off
    (``SC2ONNX_RUN_KERNELS=off``).
    """
    return None if os.environ.get(VARIABLE) == "off" else _look()


@functools.cache
def _look() -> Native | None:
    try:
        library = ctypes.CDLL(os.fspath(importlib.import_module(MODULE).library()))
        return Native({name: _declared(library, name) for name in _FUNCTIONS})
    except Exception:  # it is somebody else's code; an earlier library has fewer functions
        return None


def _declared(library: ctypes.CDLL, name: str) -> Any:
    function = getattr(library, f"sc2onnx_kernels_{name}")
    function.restype, function.argtypes = _FUNCTIONS[name]
    return function


def _check(status: int) -> None:
    """Raise for a status of the library: 2 where memory is out, 1 for sizes that do not fit."""
    if status == 2:
        raise MemoryError("calibrating: no memory for what sc2onnx-kernels compute")
    assert not status


def _at(array: npt.NDArray[Any]) -> int:
    """Where an array begins; ``array.ctypes`` takes longer."""
    return int(array.__array_interface__["data"][0])


def _stride(array: Floats) -> int:
    """Numbers from one row to the next."""
    return array.strides[0] // array.itemsize
