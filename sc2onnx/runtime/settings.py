"""How a model goes about its work."""

from __future__ import annotations

from dataclasses import dataclass

from sc2onnx.runtime.cache.shape import CHUNK


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model goes about its work, as :func:`sc2onnx.load` explains it."""

    prefill_chunk: int = CHUNK
    speculate: bool | None = None
    max_batch: int = 8
    prefix_memory: int | None = None
