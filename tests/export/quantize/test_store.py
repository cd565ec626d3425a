"""Finished roundings on disk: whole or not there, one process at a time, no
more than a few calibrations.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sc2onnx.bundle.schemes import Scheme
from sc2onnx.errors import DiskSpaceError, OutputError
from sc2onnx.export.quantize import store as room
from sc2onnx.export.quantize.codec import quantise
from sc2onnx.export.quantize.store import (
    Need,
    Rounded,
    Store,
)

NAME = "model.layers.0.mlp.c_fc"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    return Store(tmp_path / "store")


def some(scheme: Scheme, bias: bool = True) -> Rounded:
    numbers = np.random.default_rng(0).standard_normal((24, 256)).astype(np.float32)
    return Rounded(quantise(numbers, scheme), numbers[:, 0].copy() if bias else None)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scheme", [Scheme(4, 32), Scheme(8, 128)], ids=str)
def test_what_is_put_is_got(store: Store, scheme: Scheme, bias: bool) -> None:
    expected = some(scheme, bias)
    assert store.get(NAME, scheme) is None
    assert not store.has(NAME, scheme)
    store.put(NAME, expected)
    found = store.get(NAME, scheme)
    assert store.has(NAME, scheme)
    assert found is not None
    np.testing.assert_array_equal(found.quantised.codes, expected.quantised.codes)
    np.testing.assert_array_equal(found.quantised.scales, expected.quantised.scales)
    assert found.quantised.scheme == scheme
    assert (found.bias is None) == (not bias)
    assert found.bias is None or np.array_equal(found.bias, expected.bias)  # type: ignore[arg-type]
    assert [path.name for path in store.directory.iterdir()] == [f"{NAME}.safetensors"]


@pytest.mark.parametrize("other", [Scheme(8, 128), Scheme(4, 64), Scheme(4, 256)], ids=str)
def test_a_rounding_of_another_scheme_is_not_taken(store: Store, other: Scheme) -> None:
    """Such as from before a product was lifted."""
    store.put(NAME, some(Scheme(4, 128)))
    assert store.get(NAME, other) is None
    assert list(store.directory.iterdir()) == []


def test_a_partial_file_is_no_rounding(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            store.put(NAME, some(Scheme(4, 32)))
    assert len(list(store.directory.iterdir())) == 1
    assert not store.has(NAME, Scheme(4, 32))
    store.put(NAME, some(Scheme(4, 32)))
    assert [path.name for path in store.directory.iterdir()] == [f"{NAME}.safetensors"]


def test_a_full_disk_is_said_to_be_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        OutputError,
        match=(
            r"cannot be kept in .*store \(No space left on device\): free some "
            r"space, or set SC2ONNX_CACHE"
        ),
    ):
        store.put(NAME, some(Scheme(4, 32)))
    assert list(store.directory.iterdir()) == []


def test_sensitivities(store: Store) -> None:
    assert store.sensitivities(["a", "b"]) is None
    store.put_sensitivities({"b": 0.1, "a": 2.0})
    assert store.sensitivities(["a", "b"]) == {"a": 2.0, "b": 0.1}
    for others in (["a"], ["a", "b", "c"], ["a", "c"]):
        assert store.sensitivities(others) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        '{"a": "much"}',
        '{"a": ',
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": true}',
        "\xff",
    ],
)
def test_damaged_sensitivities_are_measured_again(store: Store, text: str) -> None:
    (store.directory / "sensitivity.json").write_text(text, encoding="latin-1")
    assert store.sensitivities(["a"]) is None


def test_a_directory_in_the_place_of_a_file_is_dropped(store: Store) -> None:
    for name in (f"{NAME}.safetensors", "sensitivity.json"):
        (store.directory / name / "inside").mkdir(parents=True)
    assert store.sensitivities(["a"]) is None
    store.put_sensitivities({"a": 1.0})
    assert store.sensitivities(["a"]) == {"a": 1.0}
    assert not store.has(NAME, Scheme(4, 32))
    store.put(NAME, some(Scheme(4, 32)))
    assert store.has(NAME, Scheme(4, 32))


def test_what_the_system_refuses_is_an_error_of_ours(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room, "replace_text", full)
    with pytest.raises(DiskSpaceError, match="cannot be kept"):
        store.put_sensitivities({"a": 1.0})
    shutil.rmtree(store.directory)
    with pytest.raises(OutputError, match="cannot be kept"):
        store.check_space(1)


def test_space_is_asked_for_what_is_missing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (store.directory / "done").write_bytes(bytes(600_000))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=400_000))
    store.check_space(1_000_000)
    with pytest.raises(
        DiskSpaceError,
        match=r"keeps 0\.00 GB more in .* set SC2ONNX_CACHE to a directory on another disk",
    ):
        store.check_space(1_000_001)


def test_space_for_the_bundle_counts_on_the_same_disk(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_500_000))
    store.check_space(1_000_000, Need(tmp_path, 500_000))
    with pytest.raises(
        DiskSpaceError,
        match=(
            r"0\.00 GB more in .*, and the bundle takes 0\.00 GB on the same disk, "
            r"0\.00 GB are free there"
        ),
    ):
        store.check_space(1_000_000, Need(tmp_path, 500_001))
    # more than was reckoned with makes no room for others
    (store.directory / "done").write_bytes(bytes(2_000))
    with pytest.raises(DiskSpaceError):
        store.check_space(1_000, Need(tmp_path, 1_500_001))
    elsewhere = Need(Path("/proc"), 1 << 40)
    if elsewhere.place.is_dir():
        store.check_space(1_000_000, elsewhere)
