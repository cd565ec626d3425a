"""``sc2onnx warm``, and what ``sc2onnx doctor`` says of the cache, run as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sc2onnx.errors import MissingDependencyError
from tests.cli.test_cli import refused, sc2onnx, succeeded

try:
    from sc2onnx.export import Calibration, export
except MissingDependencyError:
    pytest.skip("makes quantised bundles: install the export extra", allow_module_level=True)


def kept(directory: Path) -> str:
    findings = json.loads(succeeded(sc2onnx("doctor", "--json", directory=directory)))
    return str(
        next(finding["detail"] for finding in findings if finding["subject"] == "packed weights")
    )


@pytest.mark.kernels
def test_warm_keeps_what_the_next_start_uses(checkpoint: Path, tmp_path: Path) -> None:
    export(checkpoint, tmp_path / "int8", precision="int8", calibration=Calibration(False))
    assert kept(tmp_path).startswith("0 kept, 0.00 GB of at most 16.00 GB, in ")
    options = ("--max-new-tokens", "8", "--json")
    before = json.loads(
        succeeded(sc2onnx("generate", "int8", "def f(", *options, directory=tmp_path))
    )
    told = succeeded(sc2onnx("warm", "int8", directory=tmp_path))
    assert told.startswith("int8: 0.006 GB of packed weights in ")
    place = Path(told.split(" in ")[1].strip())
    assert (place / "packed.data").is_file()
    after = json.loads(
        succeeded(sc2onnx("generate", "int8", "def f(", *options, directory=tmp_path))
    )
    assert before["tokens"] == after["tokens"]
    assert succeeded(sc2onnx("warm", "int8", directory=tmp_path)) == told
    assert kept(tmp_path) == f"1 kept, 0.01 GB of at most 16.00 GB, in {place.parent}"


def test_warm_has_nothing_to_do_for_float_weights(bundle: Path, tmp_path: Path) -> None:
    assert "there is nothing to pack" in succeeded(sc2onnx("warm", bundle, directory=tmp_path))
    assert kept(tmp_path).startswith("0 kept")


def test_warm_has_nothing_to_do_without_the_kernels(int8_bundle: Path, tmp_path: Path) -> None:
    told = succeeded(
        sc2onnx("warm", int8_bundle, directory=tmp_path, environment={"SC2ONNX_RUN_KERNELS": "off"})
    )
    assert "there is nothing to pack" in told
    assert kept(tmp_path).startswith("0 kept")


@pytest.mark.kernels
def test_warm_says_what_is_in_the_way(checkpoint: Path, tmp_path: Path) -> None:
    export(checkpoint, tmp_path / "int8", precision="int8", calibration=Calibration(False))
    little = {"SC2ONNX_PACKED_BYTES": "1000"}
    assert "all of them together may be 1,000: set SC2ONNX_PACKED_BYTES" in refused(
        sc2onnx("warm", "int8", directory=tmp_path, environment=little)
    )
    (tmp_path / "file").touch()
    nowhere = {"SC2ONNX_CACHE": str(tmp_path / "file")}
    assert "set SC2ONNX_CACHE to another directory" in refused(
        sc2onnx("warm", "int8", directory=tmp_path, environment=nowhere)
    )
    assert "no bundle at absent" in refused(sc2onnx("warm", "absent", directory=tmp_path))
    wrong = {"SC2ONNX_PACKED_BYTES": "much"}
    findings = json.loads(sc2onnx("doctor", "--json", directory=tmp_path, environment=wrong).stdout)
    assert {"SC2ONNX_PACKED_BYTES is 'much'"} == {
        finding["advice"].split(",")[0]
        for finding in findings
        if finding["subject"] == "packed weights"
    }
