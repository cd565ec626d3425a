"""Random models that calibration can run through in a moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sc2onnx.bundle.schemes import Scheme
from sc2onnx.export.checkpoint import Checkpoint
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.quantize.recipe import Recipe
from sc2onnx.export.quantize.weights import schemes
from sc2onnx.export.weights import LazyWeight, graph_weights

RECIPE = Recipe("small", body=Scheme(4, 16), head=Scheme(8, 16))


@dataclass(frozen=True)
class Case:
    """A checkpoint as calibration sees it, and a text: windows (3, 24) of token ids."""

    checkpoint: Path
    config: Starcoder2Config
    floats: Mapping[str, LazyWeight]
    schemes: Mapping[str, Scheme]
    windows: npt.NDArray[np.int64]


@pytest.fixture
def make_case(make_checkpoint: Callable[..., Path]) -> Callable[..., Case]:
    """``make_case(changes, edit=, name=)``: two layers, 8 products, blocks of 16."""

    def make(changes: Mapping[str, Any] | None = None, **options: Any) -> Case:
        directory = make_checkpoint(
            {"hidden_size": 32, "intermediate_size": 64, "sliding_window": 7, **(changes or {})},
            **options,
        )
        return open_case(directory)

    return make


def open_case(directory: Path) -> Case:
    """The case of a checkpoint that is there already."""
    opened = Checkpoint.open(directory)
    config = Starcoder2Config.from_dict(opened.config)
    floats = graph_weights(opened, config, np.dtype(np.float32))
    windows = np.random.default_rng(1).integers(0, config.vocab_size, (3, 24))
    return Case(directory, config, floats, schemes(config, floats, RECIPE), windows)
