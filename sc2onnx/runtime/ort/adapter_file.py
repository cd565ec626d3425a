"""An adapter's directory -> its matrices, checked against the model before they are used.

ONNX Runtime reads the file, in its own format: it checks that the file is whole, and that the bytes
of each matrix are as many as its shape says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.adapter_facts import MOST_RANK, AdapterFacts, module_shapes
from sc2onnx.bundle.adapters import MATRICES_FILE, matrix_name
from sc2onnx.bundle.facts import ModelFacts
from sc2onnx.errors import AdapterError
from sc2onnx.runtime.ort.library import ort

Pair = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""``A`` (inputs, rank) and ``B`` (rank, outputs) of a module, the scale in ``B``."""

Matrices = Mapping[tuple[int, str], Pair]
"""By layer and module."""

_AGAIN: Final = "convert it again (sc2onnx adapter convert), or do not trust it"


def read_adapter(path: Path, facts: ModelFacts) -> tuple[AdapterFacts, dict[tuple[int, str], Pair]]:
    """What an adapter's directory says of itself, and its matrices.

    ``path``: of the directory, or of its file with the matrices. ``facts``: of the model that it is
    for. Raises :class:`AdapterError` for one that is damaged, or not for a model of these sizes.
    """
    directory = path.parent if path.name == MATRICES_FILE else path
    described, file = AdapterFacts.read(directory), directory / MATRICES_FILE
    _check_digest(file, described)
    try:
        parameters = ort.AdapterFormat.read_adapter(str(file)).get_parameters()
        # copies: the file's memory goes with the values
        arrays = {name: np.array(value.numpy()) for name, value in parameters.items()}
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise AdapterError(
            f"{file} is no adapter that onnxruntime reads ({str(error)[:200]}): {_AGAIN}"
        ) from error
    found = dict(_pairs(file, arrays, facts))
    if arrays:
        raise AdapterError(
            f"{file} has {min(arrays)[:80]!r}, which is no matrix of a model of "
            f"{facts.num_layers} layers: {_OTHER}"
        )
    ranks = [a.shape[1] for a, _ in found.values()]
    if max(ranks, default=0) != described.rank:
        raise AdapterError(
            f"{file} has ranks up to {max(ranks, default=0)}, its description says "
            f"{described.rank}: {_AGAIN}"
        )
    return described, found


_OTHER: Final = "load the model that the adapter was trained on"


def _check_digest(file: Path, described: AdapterFacts) -> None:
    try:
        size = file.stat().st_size
        if size == described.size:
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
        else:
            digest = f"none: it has {size} bytes"
    except OSError as error:
        raise AdapterError(f"{file} cannot be read ({error.strerror}): {_AGAIN}") from error
    if digest != described.sha256:
        raise AdapterError(
            f"{file} has SHA-256 {digest[:24]}..., its description says {described.size} bytes "
            f"and {described.sha256[:24]}...: {_AGAIN}"
        )


def _pairs(
    file: Path, arrays: dict[str, npt.NDArray[Any]], facts: ModelFacts
) -> Iterator[tuple[tuple[int, str], Pair]]:
    """The matrices of each module that has some, which are taken out of ``arrays``."""
    for layer in range(facts.num_layers):
        for module, (inputs, outputs) in module_shapes(facts).items():
            names = [matrix_name(layer, module, which) for which in "AB"]
            pair = [arrays.pop(name, None) for name in names]
            if all(matrix is None for matrix in pair):
                continue
            for name, matrix in zip(names, pair, strict=True):
                if matrix is None:
                    raise AdapterError(f"{file} lacks {name}: {_AGAIN}")
                _check_matrix(file, name, matrix)
            a, b = pair
            assert a is not None
            assert b is not None
            if a.shape[1] != b.shape[0] or (a.shape[0], b.shape[1]) != (inputs, outputs):
                raise AdapterError(
                    f"{names[0]} and B of {file} are {a.shape} and {b.shape}, expected "
                    f"({inputs}, rank) and (rank, {outputs}): {_OTHER}"
                )
            yield (layer, module), (a, b)


def _check_matrix(file: Path, name: str, matrix: npt.NDArray[Any]) -> None:
    if matrix.ndim != 2 or matrix.dtype not in (np.float32, np.float16):
        raise AdapterError(
            f"{name} of {file} is {matrix.dtype} {matrix.shape}, expected a matrix of floats: "
            f"{_AGAIN}"
        )
    if not 1 <= min(matrix.shape) <= MOST_RANK:
        raise AdapterError(
            f"{name} of {file} has a rank of {min(matrix.shape)}, expected 1 to {MOST_RANK}: "
            "merge it at export (sc2onnx export --adapter)"
        )
    if not np.isfinite(matrix).all():
        raise AdapterError(f"{name} of {file} has numbers that are not finite: {_AGAIN}")
