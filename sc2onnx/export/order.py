"""What an export is asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sc2onnx.export.calibration import Calibration
from sc2onnx.export.precision import Variant


@dataclass(frozen=True, slots=True)
class Order:
    """A checkpoint (directory or hub id, with its revision), a variant of it, and where to put it.

    ``stages``: graphs to cut the layers into. ``allow_settings``: unknown settings that the caller
    vouches for. ``adapters``: directory or hub id -> weight, to be merged in order. Raises
    :class:`~sc2onnx.errors.RequestError` where variant and calibration do not go together, before
    any work.
    """

    checkpoint: str | Path
    out: Path
    variant: Variant
    revision: str | None
    allow_settings: Collection[str]
    calibration: Calibration
    stages: int
    overwrite: bool
    adapters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.calibration.applies(self.variant.recipe())
