"""Graphs for the kernels are where the manifest says that there are some; and earlier formats."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from sc2onnx.bundle.contract import kernel_graph_files
from sc2onnx.bundle.kernels import VERSION
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.schemes import Scheme
from sc2onnx.errors import BundleError, BundleIntegrityError
from sc2onnx.runtime.opening.bundle import Bundle
from sc2onnx.runtime.opening.protobuf import message
from tests.runtime.opening.test_agreement import (
    SAYS_NOTHING,
    edit,
    nested,
    number,
    opened,
    replace,
    swap,
)

KERNELS = "model.kernels.onnx"


@pytest.fixture
def copy(int8_bundle: Path, tmp_path: Path) -> Path:
    """The files are links to the originals' data; tests replace what they change."""
    shutil.copytree(int8_bundle, tmp_path / "copy", copy_function=os.link)
    return tmp_path / "copy"


def test_names() -> None:
    assert kernel_graph_files(()) == (KERNELS,)
    assert kernel_graph_files((1, 2)) == ("model.0.kernels.onnx", "model.1.kernels.onnx")


def test_a_bundle_of_integers_has_one(copy: Path, bundle: Path) -> None:
    manifest = Bundle.open(copy).manifest
    assert (manifest.kernels, manifest.kernel_graphs) == (VERSION, (KERNELS,))
    assert Bundle.open(bundle).manifest.kernel_graphs == ()


Change = Callable[[dict[str, Any]], object]


def without(*names: str) -> Change:
    """A manifest that lacks these fields, and so is of an earlier format."""

    def change(raw: dict[str, Any]) -> None:
        for name in names:
            del raw[name]
        raw["files"].pop(KERNELS, None)

    return change


def phrased(raw: dict[str, Any]) -> None:
    """Schemes as formats before 7 say them."""
    schemes = raw["quantization"]["schemes"]
    schemes.update({name: str(Scheme(**scheme)) for name, scheme in schemes.items()})


def test_integers_of_the_format_before(int8_bundle_before: Path, tmp_path: Path) -> None:
    shutil.copytree(int8_bundle_before, copy := tmp_path / "copy", copy_function=os.link)
    edit(copy, without("kernels"))
    edit(copy, phrased)
    edit(copy, lambda raw: raw.update(format_version=5))
    manifest = Bundle.open(copy).manifest
    assert (manifest.format_version, manifest.kernels, manifest.kernel_graphs) == (5, 0, ())
    (copy / "sc2onnx.json").write_text(manifest.to_json())  # as after a verification
    assert Bundle.open(copy).manifest == manifest
    assert "kernels" not in json.loads(manifest.to_json())


@pytest.mark.parametrize("version", [6, 5, 4, 3, 2, 1])
def test_floats_of_earlier_formats(bundle: Path, tmp_path: Path, version: int) -> None:
    since = {"kernels": 6, "agreeing_steps": 5, "stages": 3, "quantization": 2}
    shutil.copytree(bundle, to := tmp_path / "copy", copy_function=os.link)
    edit(to, without(*(name for name, first in since.items() if version < first)))
    edit(to, lambda raw: raw.update(format_version=version))
    manifest = Bundle.open(to).manifest
    assert (manifest.format_version, manifest.kernels) == (version, 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda raw: raw.update(kernels=0),
            f"lists {KERNELS} of graphs for the kernels, expected none",
        ),
        (
            lambda raw: raw["files"].pop(KERNELS),
            (
                f"(lists none .*, expected {KERNELS} where kernels is "
                f"{VERSION}|does not list {KERNELS})"
            ),
        ),
        (
            lambda raw: raw["files"].update({"a.kernels.onnx": raw["files"][KERNELS]}),
            f"lists a.kernels.onnx, {KERNELS} of .*, expected {KERNELS} where kernels is {VERSION}",
        ),
        (lambda raw: raw.update(kernels=-1), "kernels is -1, expected 0, or a version"),
        (lambda raw: raw.update(kernels=10**9), "kernels is 1000000000, expected 0, or a version"),
        (lambda raw: raw.update(kernels="1"), "kernels is '1'"),
        (lambda raw: raw.update(kernels=True), "kernels is True"),
        (lambda raw: raw.update(format_version=5), "has kernels and format_version 5, expected 6"),
        (
            lambda raw: raw.update(kernels=VERSION + 1),
            (
                f"the version of the kernels' operators is {VERSION} in {KERNELS}, the manifest "
                f"says {VERSION + 1}"
            ),
        ),
    ],
)
def test_manifests_that_the_files_do_not_bear_out(copy: Path, change: Change, said: str) -> None:
    os.link(copy / KERNELS, copy / "a.kernels.onnx")
    edit(copy, change)
    for check in ("size", "full"):
        with pytest.raises(BundleError, match=said):
            Bundle.open(copy, check)


def test_where_there_cannot_be_one(bundle: Path, copy: Path) -> None:
    """Of floats: nothing that the kernels compute."""
    shutil.copytree(bundle, to := copy / "floats", copy_function=os.link)
    os.link(copy / KERNELS, to / KERNELS)
    entry = json.loads((copy / "sc2onnx.json").read_text())["files"][KERNELS]
    edit(to, lambda raw: (raw.update(kernels=VERSION), raw["files"].update({KERNELS: entry})))
    with pytest.raises(
        BundleIntegrityError,
        match=f"kernels is {VERSION}, expected 0 for target 'cpu', fp32 and heads of 64",
    ):
        Bundle.open(to)


@pytest.mark.parametrize("data", [None, b"", b"of a later version", b"\xff" * 1000])
def test_graphs_for_later_kernels_are_left_alone(copy: Path, data: bytes | None) -> None:
    """What they are, this version does not know: the bundle runs without."""
    now = message(8, message(1, b"sc2onnx") + number(2, VERSION))
    if data is None:
        later = message(8, message(1, b"sc2onnx") + number(2, VERSION + 1))
        data = swap(now, later)((copy / KERNELS).read_bytes())
    replace(copy, KERNELS, data)
    edit(copy, lambda raw: raw.update(kernels=VERSION + 1))
    if data == b"":  # a graph, of no version
        with pytest.raises(BundleIntegrityError, match="version of the kernels' operators is None"):
            Bundle.open(copy)
        return
    manifest = Bundle.open(copy).manifest
    assert (manifest.kernels, manifest.kernel_graphs) == (VERSION + 1, ())


def test_no_other_graph_has_their_operators(copy: Path) -> None:
    original = (copy / "model.onnx").read_bytes()
    replace(copy, "model.onnx", original + message(8, message(1, b"sc2onnx") + number(2, 1)))
    with pytest.raises(BundleIntegrityError, match="imports operators of 'sc2onnx'"):
        Bundle.open(copy)
    node = message(1, message(4, b"BlockwiseLinear") + message(7, b"sc2onnx"))
    replace(copy, "model.onnx", nested(original, (7,), lambda graph: graph + node))
    with pytest.raises(
        BundleIntegrityError,
        match=r"has the operator 'sc2onnx\.BlockwiseLinear', which the exporter never writes",
    ):
        Bundle.open(copy)


def test_a_graph_for_the_kernels_in_the_place_of_the_other(copy: Path) -> None:
    ours, usual = ((copy / name).read_bytes() for name in (KERNELS, "model.onnx"))
    replace(copy, KERNELS, usual)
    with pytest.raises(
        BundleIntegrityError,
        match=f"{KERNELS} is no graph that this version wrote .*'.*', which the exporter",
    ):
        Bundle.open(copy)
    replace(copy, KERNELS, ours)
    replace(copy, "model.onnx", ours)
    with pytest.raises(BundleIntegrityError, match=r"model\.onnx is no graph that this"):
        Bundle.open(copy)


def test_bits_of_the_manifest_are_noticed_or_change_nothing(copy: Path) -> None:
    """All of those that say what there is for the kernels, and some, chosen by a seed."""
    original, path = (copy / "sc2onnx.json").read_bytes(), copy / "sc2onnx.json"
    expected = asdict(Manifest.from_json(original))
    fields = (b'"kernels":', b'"format_version":')
    places = [(original.index(text), len(text) + 4) for text in fields]
    places.append((original.index(KERNELS.encode()), 60))
    bits = [bit for start, length in places for bit in range(8 * start, 8 * (start + length))]
    path.unlink()
    for bit in [*bits, *random.Random(2).sample(range(8 * len(original)), 150)]:
        data = bytearray(original)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        found = opened(copy)
        if isinstance(found, str):
            assert "\n" not in found
            continue
        assert {key for key in expected if found[key] != expected[key]} <= SAYS_NOTHING, (
            bit,
            data[bit // 8 - 20 : bit // 8 + 20],
        )


def test_any_change_of_the_graph_is_an_error_of_ours_or_a_graph(copy: Path) -> None:
    original, choose = (copy / KERNELS).read_bytes(), random.Random(1)
    for _ in range(60):
        data, at = bytearray(original), choose.randrange(len(original))
        if choose.random() < 0.3:
            del data[at:]
        else:
            data[at : at + choose.randrange(4)] = choose.randbytes(choose.randrange(4))
        replace(copy, KERNELS, bytes(data))
        assert "\n" not in opened(copy)
