"""Prompts and the logits after them, through the engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

import sc2onnx
from sc2onnx.runtime.cache.ring import RingCache
from sc2onnx.runtime.choose.parameters import SamplingParameters
from sc2onnx.runtime.engine.stacks import StackSeat
from sc2onnx.runtime.engine.streams import TokenStream
from sc2onnx.runtime.options import GenerationRules


class Catching:
    """A sampler that keeps the logits, and takes the most likely token."""

    def __init__(self) -> None:
        self.logits = list[npt.NDArray[np.float32]]()

    def draw(self, logits: npt.NDArray[np.float32]) -> int:
        self.logits.append(logits.copy())
        return int(logits.argmax())


def cache_of(sequence: sc2onnx.TokenSequence) -> RingCache:
    """The cache of a sequence, where each has its own."""
    assert isinstance(sequence.seat, StackSeat)
    return sequence.seat.cache


def prefilled(model: sc2onnx.Model, prompt: Sequence[int]) -> tuple[npt.NDArray[np.float32], int]:
    """Logits after a prompt, and how many of its tokens were reused."""
    row = model.requests.row(prompt, GenerationRules(1, SamplingParameters()), "tokens")
    row.sampler = catching = Catching()
    with TokenStream(model.engine, row) as stream:
        list(stream)
    return catching.logits[0], row.reused
