"""Finished roundings of one calibration on disk, and what it measured."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sc2onnx.bundle.files import replace_text
from sc2onnx.bundle.schemes import Scheme
from sc2onnx.errors import DiskSpaceError, OutputError
from sc2onnx.export.quantize.codec import Floats, Quantised, pack, unpack

_SENSITIVITY: Final = "sensitivity.json"
_GRADIENTS: Final = ".gradients"
_ANY: Final = "gradients"
"""In the place of a scheme, in files that belong to none."""

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Rounded:
    """A matrix as calibration left it, and the bias (out,) that belongs to it, if it has one."""

    quantised: Quantised
    bias: Floats | None

    def part(self, inputs: slice) -> Rounded:
        """Some of the inputs, in whole blocks; which of them the bias makes up for is not known."""
        size = self.quantised.scheme.block_size
        blocks = slice(inputs.start // size, inputs.stop // size)
        codes, scales = self.quantised.codes[:, inputs], self.quantised.scales[:, blocks]
        return Rounded(Quantised(codes, scales, self.quantised.scheme), None)


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that will be written in a directory."""

    place: Path
    nbytes: int


@dataclass(frozen=True, slots=True)
class Store:
    """One calibration's directory: a file for each product that is done."""

    directory: Path

    def get(self, product: str, scheme: Scheme) -> Rounded | None:
        """What was saved, if it was."""
        found = self._intact(product, scheme)
        return (
            None
            if found is None
            else Rounded(
                Quantised(unpack(found["codes"], scheme), found["scales"], scheme),
                found.get("bias"),
            )
        )

    def has(self, product: str, scheme: Scheme) -> bool:
        """Whether :meth:`get` would find it."""
        return self._intact(product, scheme) is not None

    def put(self, product: str, rounded: Rounded) -> None:
        """Save, whole or not at all. Raises :class:`OutputError`."""
        scheme = rounded.quantised.scheme
        arrays: Arrays = {
            "codes": pack(rounded.quantised.codes, scheme),
            "scales": rounded.quantised.scales,
        }
        if rounded.bias is not None:
            arrays["bias"] = rounded.bias
        self._write(product, arrays, scheme)

    def _write(self, product: str, arrays: Arrays, scheme: Scheme | str) -> None:
        partial = self.directory / f".{product}.partial"
        try:
            partial.write_bytes(save(arrays, _about(arrays, scheme)))
            os.replace(partial, self._path(product))
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise unwritable(self.directory, error) from error

    def gradients(self, product: str) -> npt.NDArray[np.float16] | None:
        """What was saved of the gradients of a product's outputs, (tokens, out), if it was."""
        found = self._intact(f"{product}{_GRADIENTS}", _ANY)
        return None if found is None else found["gradients"]

    def put_gradients(self, product: str, gradients: Floats) -> None:
        """Save gradients (tokens, out), as half precision of the largest of them.

        Raises :class:`OutputError`.
        """
        largest = max(float(np.abs(gradients).max()), float(np.finfo(np.float32).tiny))
        halves = (gradients / np.float32(largest)).astype(np.float16)
        self._write(f"{product}{_GRADIENTS}", {"gradients": halves}, _ANY)

    def sensitivities(self, products: Iterable[str]) -> dict[str, float] | None:
        """What was measured of these products, if it was; a file that says
        anything else is damaged.
        """
        try:
            found = json.loads((self.directory / _SENSITIVITY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(found, dict) or found.keys() != set(products):
            return None
        return (
            found
            if all(isinstance(value, float) and isfinite(value) for value in found.values())
            else None
        )

    def put_sensitivities(self, measured: Mapping[str, float]) -> None:
        """Save, whole or not at all. Raises :class:`OutputError`."""
        path = self.directory / _SENSITIVITY
        try:
            _discard(path, directories_only=True)
            replace_text(path, json.dumps(measured, indent=2) + "\n")
        except OSError as error:
            raise unwritable(self.directory, error) from error

    def check_space(self, nbytes: int, bundle: Need | None = None) -> None:
        """Raise :class:`DiskSpaceError` unless the calibration, ``nbytes`` in all, fits
        beside what is there of it.

        And beside the bundle, if that is to be on the same disk.
        """
        try:
            missing = nbytes - sum(path.stat().st_size for path in self.directory.iterdir())
            free = shutil.disk_usage(self.directory).free
            shared = (
                bundle is not None and bundle.place.stat().st_dev == self.directory.stat().st_dev
            )
        except OSError as error:
            raise unwritable(self.directory, error) from error
        also = bundle.nbytes if bundle is not None and shared else 0
        if free < max(missing, 0) + also:
            rest = f", and the bundle takes {also / 1e9:.2f} GB on the same disk" if also else ""
            raise DiskSpaceError(
                f"calibration keeps {max(missing, 0) / 1e9:.2f} GB more in "
                f"{self.directory.parent}{rest}, {free / 1e9:.2f} GB are free there: free some "
                "space, or set SC2ONNX_CACHE to a directory on another disk"
            )

    def _path(self, product: str) -> Path:
        return self.directory / f"{product}.safetensors"

    def _intact(self, product: str, scheme: Scheme | str) -> Arrays | None:
        """A file's arrays if they are as they were saved; a file that is damaged, or of another
        scheme, is removed, to be made again.
        """
        path = self._path(product)
        try:
            with safe_open(path, framework="np") as file:
                # it is no dict
                found: Arrays = {
                    name: file.get_tensor(
                        name,
                    )
                    for name in file.keys()  # noqa: SIM118
                }
                if file.metadata() == _about(found, scheme):
                    return found
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError):
            pass
        try:
            _discard(path)
        except OSError as error:
            raise unwritable(self.directory, error) from error
        return None


def _discard(path: Path, directories_only: bool = False) -> None:
    """Remove what is in the place of a file: a directory, or the file if that is damaged."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif not directories_only:
        path.unlink(missing_ok=True)


def _about(arrays: Arrays, scheme: Scheme | str) -> dict[str, str]:
    """What a file says of itself, by which damage is noticed."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape} ".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    # one entry, because safetensors writes several in any order
    return {"sc2onnx": f"{scheme}, SHA-256 {digest.hexdigest()}"}


def unwritable(place: Path, error: OSError) -> OutputError:
    """The error for a calibration that cannot be written to ``place``, with what to do."""
    return (DiskSpaceError if error.errno == errno.ENOSPC else OutputError)(
        f"calibration cannot be kept in {place} ({error.strerror or error}): free some space, or "
        "set SC2ONNX_CACHE to a directory that can be written"
    )
