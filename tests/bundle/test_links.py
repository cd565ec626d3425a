"""Which files of a directory are really in it; others must not be carried away."""

from __future__ import annotations

from pathlib import Path

import pytest

from sc2onnx.bundle.links import inside


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "checkpoint" / "below").mkdir(parents=True)
    for name in ("file", "below/file", "../secret"):
        (tmp_path / "checkpoint" / name).write_text(name)
    return tmp_path / "checkpoint"


def test_files_and_links_to_files_of_the_directory_are_inside(directory: Path) -> None:
    (directory / "link").symlink_to("below/file")
    (directory / "absolute").symlink_to(directory / "file")
    (directory / "chain").symlink_to("link")
    names = ("file", "link", "absolute", "chain")
    assert all(inside(directory, directory / name) for name in names)


@pytest.mark.parametrize(
    "target",
    ["../secret", "/etc/hostname", "below/../../secret", "absent", "link", "out/secret", ".."],
)
def test_links_that_lead_out_or_nowhere_are_not(directory: Path, target: str) -> None:
    (directory / "out").symlink_to("..")
    (directory / "link").symlink_to(target)
    assert not inside(directory, directory / "link")


def test_a_neighbour_whose_name_begins_alike_is_outside(directory: Path) -> None:
    other = directory.with_name("checkpoint-2")
    other.mkdir()
    (other / "file").write_text("")
    (directory / "link").symlink_to(other / "file")
    assert not inside(directory, directory / "link")


def test_a_directory_that_is_itself_reached_by_a_link(directory: Path) -> None:
    way = directory.with_name("way")
    way.symlink_to(directory)
    (directory / "link").symlink_to(directory / "file")
    assert inside(way, way / "link")
    assert inside(way, way / "file")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache of huggingface_hub: file -> blob of the model, shared -> blob of the whole cache."""
    model = tmp_path / "hub" / "models--someone--starcoder2"
    for folder in ("snapshots/0a1b", "blobs", "../blobs/5f"):
        (model / folder).mkdir(parents=True)
    (model / "blobs" / "aa").write_text("")
    (model.parent / "blobs" / "5f" / "bb").write_text("")
    (model / "blobs" / "bb").symlink_to("../../blobs/5f/bb")
    (model / "snapshots" / "0a1b" / "file").symlink_to("../../blobs/aa")
    (model / "snapshots" / "0a1b" / "shared").symlink_to("../../blobs/bb")
    return model


def test_the_cache_of_the_hub_is_made_of_links(cache: Path) -> None:
    snapshot = cache / "snapshots" / "0a1b"
    assert inside(snapshot, snapshot / "file")
    assert inside(snapshot, snapshot / "shared")


@pytest.mark.parametrize(
    "target",
    ["../0c2d/file", "../../refs/main", "../../../other", "/etc/hostname"],
)
def test_a_snapshot_leads_to_blobs_only(cache: Path, target: str) -> None:
    for other in ("snapshots/0c2d/file", "refs/main", "../other"):
        (cache / other).parent.mkdir(exist_ok=True)
        (cache / other).write_text("")
    snapshot = cache / "snapshots" / "0a1b"
    (snapshot / "link").symlink_to(target)
    assert not inside(snapshot, snapshot / "link")


def test_a_folder_called_snapshots_is_no_cache(directory: Path) -> None:
    snapshot = directory / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    (directory / "blobs").mkdir()
    (directory / "blobs" / "aa").write_text("")
    (snapshot / "file").symlink_to("../../blobs/aa")
    assert not inside(snapshot, snapshot / "file")
