from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="compares with torch: install the verify extra")

import sc2onnx
from sc2onnx.export import export
from tests.parity.shapes import SHAPES, Shape, make


@dataclass(frozen=True)
class Exported:
    """A random checkpoint and its bundle."""

    shape: Shape
    checkpoint: Path
    bundle: Path
    model: sc2onnx.Model


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Exported]:
    directory = tmp_path_factory.mktemp("shape")
    checkpoint = make(request.param, directory / "checkpoint")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # random checkpoints have no tokenizer
        export(checkpoint, directory / "bundle")
    yield Exported(
        request.param, checkpoint, directory / "bundle", sc2onnx.load(directory / "bundle")
    )
    shutil.rmtree(directory)
