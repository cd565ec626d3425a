"""A bundle that is not what its manifest says is refused, in words that name the file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import sc2onnx
from sc2onnx.bundle.directories import cache_directory
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import (
    BundleError,
    BundleIntegrityError,
    BundleNotFoundError,
    BundleVersionError,
    DeviceError,
    RequestError,
    TokenizerError,
)
from sc2onnx.runtime.opening import stamps
from sc2onnx.runtime.opening.bundle import Bundle

SETTLED = 0.1
"""Seconds after which a change of a file shows in its stamp."""


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def edit(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = bundle / "sc2onnx.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def flip_byte(path: Path, offset: int = -100) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_the_manifest_survives_the_round_trip(bundle: Path) -> None:
    manifest = Manifest.read(bundle)
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert set(manifest.files) == {path.name for path in bundle.iterdir()} - {
        "sc2onnx.json",
        "README.md",
    }


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(
        BundleNotFoundError, match=r"no bundle at .*absent: make one with `sc2onnx export"
    ):
        sc2onnx.load(tmp_path / "absent")
    with pytest.raises(BundleNotFoundError, match=r"is not a bundle \(it has no sc2onnx\.json\)"):
        sc2onnx.load(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(BundleNotFoundError, match="is not a bundle but a file"):
        sc2onnx.load(tmp_path / "file")


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "tokenizer.json"])
def test_a_missing_file(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(
        BundleIntegrityError, match=rf"{name} is missing from .*, the manifest lists it"
    ):
        sc2onnx.load(copy)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "tokenizer.json"])
def test_a_file_of_the_wrong_size(copy: Path, name: str) -> None:
    size = (copy / name).stat().st_size
    os.truncate(copy / name, size - 1)
    with pytest.raises(
        BundleIntegrityError, match=rf"{name} is {size - 1} bytes, the manifest says {size}"
    ):
        sc2onnx.load(copy, check="size")


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "tokenizer.json"])
def test_an_altered_byte(copy: Path, name: str) -> None:
    flip_byte(copy / name)
    with pytest.raises(
        BundleIntegrityError, match=rf"{name} has SHA-256 [0-9a-f]+\.\.\., the manifest says"
    ):
        sc2onnx.load(copy)


@pytest.mark.parametrize(
    "name", ["../outside.data", "/etc/passwd", "a/b", "..", "C:\\x", ".hidden", ""]
)
def test_a_path_that_leaves_the_directory(copy: Path, name: str) -> None:
    edit(copy, lambda raw: raw["files"].update({name: {"size": 1, "sha256": "0"}}))
    with pytest.raises(BundleIntegrityError, match="expected a plain file name inside the bundle"):
        sc2onnx.load(copy)


def put(name: str, value: Any, raw: dict[str, Any]) -> None:
    """Set a field of the manifest, ``model.head_dim`` say."""
    *within, last = name.split(".")
    for part in within:
        raw = raw[part]
    raw[last] = value


def test_a_newer_manifest(copy: Path) -> None:
    edit(copy, lambda raw: raw.update(format_version=9, something_new={}))
    with pytest.raises(
        BundleVersionError, match="format_version 9, this sc2onnx reads 1 to 8: upgrade sc2onnx"
    ):
        sc2onnx.load(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.pop("model"), "malformed"),
        (lambda raw: raw["model"].pop("head_dim"), "malformed"),
        (lambda raw: raw["model"].update(head_dim=0), "model.head_dim is 0, expected at least 1"),
        (lambda raw: raw.update(surprise=1), "unknown fields"),
        (lambda raw: raw.update(format_version="1"), "no format_version"),
        (lambda raw: raw.update(files=[]), "malformed"),
        (lambda raw: raw["files"].pop("model.onnx.data"), "does not list model.onnx.data"),
        (lambda raw: raw.update(format_version=0), "format_version 0"),
        (lambda raw: raw["cache"].update(kind="paged"), "cache of kind 'paged'"),
        (
            lambda raw: raw["cache"].update(dtype="float16"),
            (
                "for target 'cpu' with a cache of kind 'ring-transposed-values' in 'float16', this "
                "version runs 'cpu', 'ring-"
            ),
        ),
        (
            lambda raw: raw["cache"].update(dtype="float8"),
            "cache.dtype is 'float8', expected one of float32",
        ),
        (
            lambda raw: raw.update(target="rocm"),
            "target is 'rocm', expected one of cpu, portable, cuda",
        ),
        (lambda raw: raw["model"].update(sliding_window=-5), "sliding_window is -5"),
        (lambda raw: raw["model"].update(sliding_window=255.5), "sliding_window is 255.5"),
        (lambda raw: raw["model"].update(sliding_window="256"), "sliding_window is '256'"),
        (lambda raw: raw["model"].update(eos_token_ids="ab"), "eos_token_ids is"),
        (lambda raw: raw["model"].update(tied_embeddings=1), "tied_embeddings is 1"),
        (lambda raw: raw.update(weight_bytes=None), "weight_bytes is None"),
        (lambda raw: raw["provenance"].update(source=5), "source is 5"),
        (partial(put, "provenance", "x"), "malformed"),
        (partial(put, "provenance", [["source", "x"]]), "malformed"),
        (partial(put, "provenance", 5), "malformed"),
        (partial(put, "stages", "x"), "stages is 'x', expected a list"),
        (partial(put, "stages", {}), "stages is {}, expected a list"),
        (partial(put, "stages", None), "stages is None, expected a list"),
        (
            partial(put, "provenance.allowed_settings", "x"),
            "allowed_settings is 'x', expected a list",
        ),
        (partial(put, "provenance.allowed_settings", [1]), "allowed_settings is"),
        (lambda raw: raw.update(target="a" * 100_000), "a text of 100,000 characters"),
        (lambda raw: raw["model"].update(num_layers="a" * 4000), "num_layers is"),
        (lambda raw: raw.update({str(number): 1 for number in range(1000)}), "unknown fields"),
        (lambda raw: raw["files"]["model.onnx"].update(size="33818"), "size is '33818'"),
    ],
)
def test_a_malformed_manifest(
    copy: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    edit(copy, change)
    with pytest.raises(BundleError, match=message) as caught:
        sc2onnx.load(copy)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ["", "[]", "{", "\ufeff{}"])
def test_a_manifest_that_is_not_one(copy: Path, text: str) -> None:
    (copy / "sc2onnx.json").write_text(text)
    with pytest.raises(BundleError, match=r"sc2onnx\.json"):
        sc2onnx.load(copy)


def test_an_edited_card_is_fine(copy: Path) -> None:
    (copy / "README.md").write_text("mine")
    sc2onnx.load(copy)


def test_a_moved_bundle_still_works(copy: Path, tmp_path: Path) -> None:
    moved = copy.rename(tmp_path / "elsewhere")
    assert sc2onnx.load(moved).generate("a", max_new_tokens=1).tokens


def test_large_files_are_hashed_once_and_again_when_touched(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamps, "LARGE", 1 << 20)
    hashed: list[str] = []
    digest = hashlib.file_digest

    def counting(file: Any, name: str) -> Any:
        hashed.append(Path(file.name).name)
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counting)
    time.sleep(SETTLED)
    Bundle.open(copy)
    assert "model.onnx.data" in hashed
    hashed.clear()
    Bundle.open(copy)
    assert "model.onnx.data" not in hashed
    assert "tokenizer.json" in hashed  # small files are always hashed
    Bundle.open(copy, check="full")
    assert "model.onnx.data" in hashed
    flip_byte(copy / "model.onnx.data")
    with pytest.raises(BundleIntegrityError, match=r"model\.onnx\.data has SHA-256"):
        Bundle.open(copy)
    Bundle.open(copy, check="size")


def test_a_damaged_or_unwritable_cache_costs_only_time(
    copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(stamps, "LARGE", 1 << 20)
    time.sleep(SETTLED)
    Bundle.open(copy)
    (memo,) = (cache_directory() / "checked").iterdir()
    memo.write_text("nonsense")
    Bundle.open(copy)
    (tmp_path / "a-file").touch()
    monkeypatch.setenv("SC2ONNX_CACHE", str(tmp_path / "a-file"))
    Bundle.open(copy)


@pytest.mark.skipif(sys.platform == "win32", reason="about uids and HOME")
def test_loading_needs_no_home_directory(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(stamps, "LARGE", 1 << 20)
    for variable in ("SC2ONNX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", staticmethod(homeless))
    assert Bundle.open(copy).manifest.files


def test_files_that_cannot_be_read_are_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / "sc2onnx.json").rename(copy / "aside")
    (copy / "sc2onnx.json").mkdir()
    with pytest.raises(BundleError, match=r"sc2onnx\.json cannot be read"):
        sc2onnx.load(copy)
    (copy / "sc2onnx.json").rmdir()
    (copy / "aside").rename(copy / "sc2onnx.json")

    def unreadable(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(hashlib, "file_digest", unreadable)
    with pytest.raises(BundleIntegrityError, match="cannot be read"):
        sc2onnx.load(copy)


def test_a_tokenizer_that_the_manifest_does_not_list_is_not_used(
    token_bundle: Path, bundle: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(token_bundle, tmp_path / "tokens"))
    shutil.copy(bundle / "tokenizer.json", copied)
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        sc2onnx.load(copied).generate("a")


def test_the_card_shows_what_works(token_bundle: Path, bundle: Path) -> None:
    assert "model.infill(" in (bundle / "README.md").read_text()
    card = (token_bundle / "README.md").read_text()
    assert "model.infill(" not in card
    assert "model.generate_tokens(" in card


def test_unknown_checks_and_devices_are_refused(bundle: Path) -> None:
    with pytest.raises(RequestError, match="check is 'quick', expected 'auto', 'full' or 'size'"):
        sc2onnx.load(bundle, check="quick")  # type: ignore[arg-type]
    for name in ("gpu", "cuda:", "cuda:-1", "cuda:x", "CPU", "", 0, None):
        with pytest.raises(
            DeviceError,
            match=r"device is .*, expected 'cpu', 'cuda', 'cuda:1' \(the second GPU\) or 'auto'",
        ):
            sc2onnx.load(bundle, device=name)  # type: ignore[arg-type]
