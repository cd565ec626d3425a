"""A bundle's files may be links inside it, or into the blobs of the hub's
cache, and to nowhere else.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

import sc2onnx
from sc2onnx.errors import BundleError, BundleIntegrityError
from sc2onnx.runtime.opening.bundle import Bundle

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy", copy_function=os.link))


def moved(directory: Path, name: str, to: Path) -> None:
    """The file lies elsewhere, and a link leads there."""
    to.parent.mkdir(parents=True, exist_ok=True)
    (directory / name).rename(to)
    (directory / name).symlink_to(os.path.relpath(to, directory))


@pytest.mark.parametrize(
    "name", ["model.onnx", "model.onnx.data", "tokenizer.json", "sc2onnx.json", "README.md"]
)
def test_a_link_that_leads_out(copy: Path, tmp_path: Path, name: str) -> None:
    moved(copy, name, tmp_path / "elsewhere" / name)
    for check in ("size", "full"):
        with pytest.raises(
            BundleIntegrityError, match=rf"{name} is a link that leads out of the bundle"
        ):
            Bundle.open(copy, check)


def test_a_link_through_a_link(copy: Path, tmp_path: Path) -> None:
    moved(copy, "config.json", tmp_path / "elsewhere" / "config.json")
    (copy / "inside").symlink_to("../elsewhere")
    (copy / "config.json").unlink()
    (copy / "config.json").symlink_to("inside/config.json")
    with pytest.raises(BundleIntegrityError, match=r"config\.json is a link that leads out"):
        sc2onnx.load(copy)


def test_links_that_stay_inside_and_a_bundle_behind_a_link(copy: Path, tmp_path: Path) -> None:
    moved(copy, "config.json", copy / "files" / "config.json")
    (tmp_path / "link").symlink_to(copy)
    assert Bundle.open(tmp_path / "link", "full").manifest == Bundle.open(copy).manifest


def snapshot(
    bundle: Path, cache: Path, repository: str = "models--team--mini", snapshots: str = "snapshots"
) -> Path:
    """A bundle as huggingface_hub's cache keeps it."""
    directory = cache / repository / snapshots / "0123"
    directory.mkdir(parents=True)
    for path in bundle.iterdir():
        os.link(path, directory / path.name)
        moved(directory, path.name, cache / repository / "blobs" / f"{path.name}-digest")
    return directory


def test_the_hubs_cache(bundle: Path, tmp_path: Path) -> None:
    model = sc2onnx.load(snapshot(bundle, tmp_path))
    assert len(list(model.generate_tokens([5, 6, 7], max_new_tokens=2))) == 2


@pytest.mark.parametrize(
    ("repository", "snapshots"), [("mini", "snapshots"), ("models--team--mini", "bundles")]
)
def test_what_only_resembles_the_hubs_cache(
    bundle: Path, tmp_path: Path, repository: str, snapshots: str
) -> None:
    with pytest.raises(BundleIntegrityError, match="is a link that leads out"):
        sc2onnx.load(snapshot(bundle, tmp_path, repository, snapshots))


def test_blobs_of_the_hubs_cache_that_lead_on(bundle: Path, tmp_path: Path) -> None:
    directory = snapshot(bundle, tmp_path)
    blob = tmp_path / "models--team--mini" / "blobs" / "config.json-digest"
    moved(blob.parent, blob.name, tmp_path / "secret")
    with pytest.raises(BundleIntegrityError, match=r"config\.json is a link that leads out"):
        sc2onnx.load(directory)


def test_what_is_no_file(copy: Path) -> None:
    """A pipe would be waited for."""
    for name, said in (
        ("config.json", r"config\.json is missing"),
        ("sc2onnx.json", r"sc2onnx\.json cannot be read \(it is no file\)"),
    ):
        data = (copy / name).read_bytes()
        (copy / name).unlink()
        os.mkfifo(copy / name)
        with pytest.raises(BundleError, match=said):
            sc2onnx.load(copy)
        (copy / name).unlink()
        (copy / name).write_bytes(data)
