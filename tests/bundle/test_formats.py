"""Manifests of the formats before: they are read, and written again as they were."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sc2onnx
from sc2onnx.bundle.kernels import VERSION
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.schemes import Scheme
from sc2onnx.errors import BundleError
from sc2onnx.runtime.opening.bundle import Bundle

SINCE = {"kernels": 6, "agreeing_steps": 5}
"""Fields that formats before these lack."""

KERNELS = "model.kernels.onnx"


def earlier(directory: Path, version: int) -> dict[str, Any]:
    """The manifest of a bundle of integers as the format ``version`` says it."""
    raw: dict[str, Any] = json.loads((directory / "sc2onnx.json").read_text())
    found = raw["format_version"]
    assert found in (7, 8)
    raw["format_version"] = version
    if found == 8:
        assert raw["quantization"].pop("scales") == "bfloat16"
    for name, first in SINCE.items():
        if version < first:
            raw.pop(name)
    if version < SINCE["kernels"]:
        raw["files"].pop(KERNELS)
    if version == 7:
        return raw
    schemes = raw["quantization"]["schemes"]
    for product, scheme in schemes.items():
        schemes[product] = f"int{scheme['bits']} in blocks of {scheme['block_size']}"
    return raw


@pytest.mark.parametrize("version", [7, 6, 5, 4])
def test_integers_of_earlier_formats(int4_bundle: Path, version: int) -> None:
    raw, now = earlier(int4_bundle, version), Manifest.read(int4_bundle)
    before = Manifest.from_json(json.dumps(raw))
    assert now.quantization is not None
    assert before.quantization == replace(now.quantization, scales=None)
    assert set(now.quantization.schemes.values()) == {Scheme(4, 64), Scheme(8, 128)}
    written = json.loads(before.to_json())
    assert written["quantization"] == raw["quantization"]
    assert written["format_version"] == version
    assert Manifest.from_json(before.to_json()) == before


@pytest.mark.parametrize("version", [7, 6, 5])
def test_bundles_of_earlier_formats_open(
    int8_bundle_before: Path, tmp_path: Path, version: int
) -> None:
    """Of integers; a graph of format 4 is written otherwise."""
    shutil.copytree(int8_bundle_before, to := tmp_path / "copy", copy_function=os.link)
    (to / "sc2onnx.json").unlink()
    (to / "sc2onnx.json").write_text(json.dumps(earlier(int8_bundle_before, version)))
    opened = Bundle.open(to).manifest
    assert (opened.format_version, opened.kernels) == (version, VERSION if version > 5 else 0)
    assert opened.quantization == Manifest.read(int8_bundle_before).quantization


@pytest.mark.parametrize("kernels", ["off", pytest.param("on", marks=pytest.mark.kernels)])
def test_scales_in_float32_run(int8_bundle_before: Path, int8_bundle: Path, kernels: Any) -> None:
    prompt = "def fibonacci(n):\n    "
    found = [
        sc2onnx.load(bundle, kernels=kernels, packed="now").generate(prompt, max_new_tokens=24)
        for bundle in (int8_bundle_before, int8_bundle)
    ]
    assert found[0].tokens == found[1].tokens


def test_scales_of_no_such_type(int4_bundle: Path) -> None:
    raw = json.loads((int4_bundle / "sc2onnx.json").read_text())
    raw["quantization"]["scales"] = "float8"
    with pytest.raises(BundleError, match="scales is 'float8', expected 'bfloat16' or none"):
        Manifest.from_json(json.dumps(raw))


def test_a_scheme_is_data(int8_bundle: Path) -> None:
    raw = json.loads((int8_bundle / "sc2onnx.json").read_text())
    schemes = raw["quantization"]["schemes"].values()
    assert all(set(scheme) == {"bits", "block_size"} for scheme in schemes)
    assert {scheme["bits"] for scheme in schemes} == {8}
    assert json.loads(Manifest.read(int8_bundle).to_json()) == raw


def test_a_phrase_is_for_people(int4_bundle: Path) -> None:
    shown = str(Manifest.read(int4_bundle).quantization)
    assert shown.startswith("int4 in blocks of 64 (24 matrices), int8 in blocks of 128 (2 matric")
    assert shown.endswith("; 4.25 bits a weight in the layers; rounded to the nearest")


NOW: Any = {"bits": 4, "block_size": 128}
PHRASE: Any = "int4 in blocks of 128"


@pytest.mark.parametrize(
    ("version", "scheme"),
    [
        (8, PHRASE),
        (8, {"bits": 4}),
        (8, {**NOW, "group": 1}),
        (8, {**NOW, "bits": 3}),
        (8, {**NOW, "block_size": 48}),
        (8, {**NOW, "bits": True}),
        (8, {**NOW, "bits": 4.0}),
        (8, {**NOW, "bits": "4"}),
        (8, [4, 128]),
        (8, None),
        (6, NOW),
        (6, None),
        (6, "int3 in blocks of 128"),
        (6, "int4 in blocks of 48"),
        (6, "int4 in blocks of 0128"),
        (6, "int4 in blocks of 128 "),
        (6, "nf4"),
        (5, NOW),
    ],
)
def test_a_scheme_that_is_none_in_its_format(int4_bundle: Path, version: int, scheme: Any) -> None:
    raw = json.loads((int4_bundle / "sc2onnx.json").read_text())
    raw = raw if version == 8 else earlier(int4_bundle, version)
    raw["quantization"]["schemes"]["model.x"] = scheme
    expected = "{'bits': 4, 'block_size': 128}" if version == 8 else f"'{PHRASE}'"
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(json.dumps(raw))
    message = str(caught.value)
    assert message.startswith(
        f"quantization.schemes has {scheme!r} for 'model.x', expected such as "
    )
    assert message.endswith(f"{expected}: export the bundle again")


@pytest.mark.parametrize("schemes", [None, [], "abc", 5])
def test_schemes_that_are_no_object(int4_bundle: Path, schemes: Any) -> None:
    raw = json.loads((int4_bundle / "sc2onnx.json").read_text())
    raw["quantization"]["schemes"] = schemes
    with pytest.raises(BundleError, match=r"sc2onnx\.json is malformed"):
        Manifest.from_json(json.dumps(raw))
