"""Which adapters a caller asks for, each with its weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from sc2onnx.errors import RequestError
from sc2onnx.export.shown import brief, name_of

Wanted: TypeAlias = Sequence[str | Path] | Mapping[str, float] | Mapping[Path, float]
"""Directories or hub ids of adapters, or these with the weight of each."""


def weights_by_path(adapters: Wanted) -> dict[str, float]:
    """Directory or hub id -> weight, in order. Raises :class:`RequestError` for anything else."""
    if isinstance(adapters, str | bytes) or not isinstance(adapters, Mapping | Sequence):
        raise RequestError(
            f"adapters is {brief(adapters)}, expected a list of directories or hub ids, or a "
            "mapping of these to weights"
        )
    if wrong := [path for path in adapters if not isinstance(path, str | Path)]:
        raise RequestError(f"adapters has {brief(wrong[0])}, expected directories or hub ids")
    paths = [str(path) for path in adapters]
    weights = adapters.values() if isinstance(adapters, Mapping) else [1.0] * len(paths)
    found = dict(zip(paths, weights, strict=True))
    if len(found) < len(paths):
        twice = next(path for path in found if paths.count(path) > 1)
        raise RequestError(f"adapter {name_of(twice)} is given twice, expected once")
    return found
