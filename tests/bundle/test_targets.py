"""What differs between targets is in one record each, and an unknown name
is refused with the list.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.model_card import render
from sc2onnx.bundle.targets import (
    CPU,
    CUDA,
    GENAI,
    OPTIMUM,
    OWN_TARGETS,
    PORTABLE,
    TARGETS,
    Target,
    target,
)
from sc2onnx.errors import BundleError, RequestError

NAMES = ("cpu", "portable", "cuda", "genai", "optimum")


def test_a_name_means_one_record() -> None:
    assert tuple(TARGETS) == NAMES
    assert [target(name).name for name in NAMES] == list(NAMES)
    assert OWN_TARGETS == (CPU, PORTABLE, CUDA)


def test_an_unknown_name_is_refused_with_the_list() -> None:
    with pytest.raises(RequestError) as caught:
        target("rocm")
    assert str(caught.value) == f"target is 'rocm', expected one of {', '.join(NAMES)}"


def test_a_manifest_keeps_the_name(bundle: Path) -> None:
    manifest = Manifest.read(bundle)
    assert (manifest.target, manifest.made_for) == ("cpu", CPU)
    raw = json.loads(manifest.to_json())
    assert raw["target"] == "cpu"
    with pytest.raises(BundleError, match=f"target is 'rocm', expected one of {', '.join(NAMES)}"):
        Manifest.from_json(json.dumps({**raw, "target": "rocm"}))


@pytest.mark.parametrize(
    ("made_for", "dtype", "command"),
    [
        (CPU, "float32", 'pip install ".[cpu]"'),
        (PORTABLE, "float32", 'pip install ".[cpu]"'),
        (CUDA, "bfloat16", 'pip install ".[gpu]"'),
        (GENAI, "float32", "pip install onnxruntime-genai"),
        (GENAI, "float16", "pip install onnxruntime-genai-cuda"),
        (OPTIMUM, "float32", 'pip install "optimum-onnx[onnxruntime]"'),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_card_says_what_to_install(
    bundle: Path, made_for: Target, dtype: str, command: str
) -> None:
    raw = json.loads((bundle / "sc2onnx.json").read_text())
    raw |= {"target": made_for.name, "cache": {**raw["cache"], "dtype": dtype}}
    assert f"```\n{command}\n```" in render(Manifest.from_json(json.dumps(raw)))
