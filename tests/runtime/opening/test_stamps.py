"""The memo of digests saves time; it vouches for nothing that changed or others could write."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from mmap import mmap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from sc2onnx.bundle.directories import cache_directory, make_directory
from sc2onnx.bundle.trust import check_directories, check_file, is_link
from sc2onnx.errors import BundleIntegrityError
from sc2onnx.runtime.opening import stamps
from sc2onnx.runtime.opening.bundle import Bundle
from sc2onnx.runtime.opening.stamps import Memo, Stamp

DATA = "model.onnx.data"
SETTLED = 0.1
"""Seconds after which a change of a file shows in its stamp."""

posix = pytest.mark.skipif(sys.platform == "win32", reason="about owners and modes")


@pytest.fixture
def copy(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle whose weights are large enough to be remembered, and were hashed."""
    monkeypatch.setattr(stamps, "LARGE", 1 << 20)
    copied = Path(shutil.copytree(bundle, tmp_path / "copy"))
    time.sleep(SETTLED)
    Bundle.open(copied)
    return copied


@pytest.fixture
def hashed(copy: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that are read from now on."""
    names: list[str] = []
    digest = hashlib.file_digest

    def counting(file: Any, name: str) -> Any:
        names.append(Path(file.name).name)
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counting)
    return names


def memo() -> Path:
    (file,) = (cache_directory() / "checked").iterdir()
    return file


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it belong to another user."""
    if os.geteuid() == 0:
        os.chown(path, 12345, -1, follow_symlinks=False)
    else:
        other = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other)


def altered(path: Path, to: Path) -> Path:
    """A copy with one other byte and the times of the original."""
    data, status = bytearray(path.read_bytes()), path.stat()
    data[len(data) // 2] ^= 1
    to.write_bytes(data)
    os.utime(to, ns=(status.st_atime_ns, status.st_mtime_ns))
    return to


def written_over(path: Path, aside: Path) -> None:
    other = altered(path, aside)
    path.write_bytes(other.read_bytes())
    shutil.copystat(other, path)  # touch -r


def copied_over(path: Path, aside: Path) -> None:
    shutil.copy2(altered(path, aside), path)  # cp -p


def renamed_over(path: Path, aside: Path) -> None:
    altered(path, aside).replace(path)  # rsync -t


def removed_and_restored(path: Path, aside: Path) -> None:
    other = altered(path, aside)
    path.unlink()
    shutil.copy2(other, path)  # a backup


def linked(path: Path, aside: Path) -> None:
    other = altered(path, aside)
    path.unlink()
    path.symlink_to(other)


def mapped(path: Path, aside: Path) -> None:
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(-7, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES = [
    written_over,
    copied_over,
    renamed_over,
    removed_and_restored,
    linked,
    mapped,
]


def test_an_unchanged_file_is_not_read_again(copy: Path, hashed: list[str]) -> None:
    Bundle.open(copy)
    assert DATA not in hashed
    assert "tokenizer.json" in hashed  # small files always are
    Bundle.open(copy, "full")
    assert DATA in hashed


@pytest.mark.parametrize("change", CHANGES)
def test_other_bytes_under_the_old_time_are_noticed(
    copy: Path,
    tmp_path: Path,
    change: Callable[[Path, Path], None],
) -> None:
    before = (copy / DATA).stat()
    change(copy / DATA, tmp_path / "aside")
    after = (copy / DATA).stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(BundleIntegrityError, match=r"model\.onnx\.data"):
        Bundle.open(copy)


def test_a_file_that_was_only_touched_is_read_once_more(copy: Path, hashed: list[str]) -> None:
    os.utime(copy / DATA)
    time.sleep(SETTLED)
    for _ in range(2):
        Bundle.open(copy)
    assert hashed.count(DATA) == 1


def test_a_file_that_changed_a_moment_ago_is_not_remembered(
    copy: Path,
    hashed: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A change in the same tick of the clock would have the same time."""
    os.utime(copy / DATA)
    now = (copy / DATA).stat().st_ctime_ns + 1_000_000
    monkeypatch.setattr(time, "time_ns", lambda: now)
    for _ in range(2):
        Bundle.open(copy)
    assert hashed.count(DATA) == 2


NOW = 1_700_000_000_000_000_001
STAMP = Stamp(size=5, modified=NOW, changed=NOW, inode=7, device=8)


@pytest.mark.parametrize(
    ("changed", "later", "settled"),
    [
        (STAMP.changed, 0, False),
        (STAMP.changed, 40_000_000, False),
        (STAMP.changed, 60_000_000, True),
        (STAMP.changed, -1_000_000_000, False),  # the file system's clock is ahead
        (1_700_000_000_000_000_000, 60_000_000, False),  # whole seconds: FAT has every second one
        (1_700_000_000_000_000_000, 2_000_000_001, True),
    ],
)
def test_when_every_change_would_show(changed: int, later: int, settled: bool) -> None:
    assert replace(STAMP, changed=changed).settled(changed + later) is settled


@posix
def test_nothing_is_remembered_without_an_inode_or_a_time_of_change(
    copy: Path,
    hashed: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert STAMP.tells
    assert not replace(STAMP, inode=0).tells
    assert not replace(STAMP, changed=0).tells
    of = Stamp.of
    monkeypatch.setattr(Stamp, "of", lambda status: replace(of(status), inode=0))
    for _ in range(2):
        Bundle.open(copy)
    assert hashed.count(DATA) == 2
    assert Memo.open(copy).known(DATA) is None


HOSTILE: list[str | bytes] = [
    "",
    "nonsense",
    "[]",
    "null",
    '{"model.onnx.data": 5}',
    '{"model.onnx.data": []}',
    '{"model.onnx.data": {"size": 1}}',
    '{"model.onnx.data": [1, 2, 3]}',
    '{"model.onnx.data": ' + "[" * 100_000 + "]" * 100_000 + "}",
    '{"model.onnx.data": [' + "9" * 5000 + "]}",
    '{"model.onnx.data": NaN}',
    b"\xff\xfe" * 50,
    b" " * (2 << 20),
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_damaged_memo_costs_only_time(copy: Path, hashed: list[str], text: str | bytes) -> None:
    memo().write_bytes(text if isinstance(text, bytes) else text.encode())
    for _ in range(2):
        Bundle.open(copy)
    assert hashed.count(DATA) == 1


def test_a_wrong_digest_in_the_memo_refuses_no_file(copy: Path, hashed: list[str]) -> None:
    noted = json.loads(memo().read_text())
    noted[DATA][-1] = "0" * 64
    memo().write_text(json.dumps(noted))
    Bundle.open(copy)
    assert DATA in hashed


def linked_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aside = path.with_name("aside")
    path.rename(aside)
    path.symlink_to(aside)


def for_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.chmod(0o777)


def for_the_group(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.chmod(0o775)


@posix
@pytest.mark.parametrize("spoil", [linked_away, for_all, for_the_group, give_away])
@pytest.mark.parametrize("place", ["file", "directory"])
def test_a_memo_that_others_could_write_vouches_for_nothing(
    copy: Path,
    hashed: list[str],
    place: str,
    spoil: Callable[[Path, pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil(memo() if place == "file" else memo().parent, monkeypatch)
    Bundle.open(copy)
    assert DATA in hashed


@posix
@pytest.mark.parametrize(
    ("mode", "believed"),
    [
        (0o755, True),
        (0o700, True),
        (0o775, False),
        (0o757, False),
        (0o777, False),
        (0o1777, True),
    ],
)
def test_the_cache_directory_itself(
    copy: Path,
    hashed: list[str],
    mode: int,
    believed: bool,
) -> None:
    """It may be one as /tmp, where everybody has files and nobody moves those of others."""
    cache_directory().chmod(mode)
    Bundle.open(copy)
    assert (DATA not in hashed) is believed


@posix
def test_the_cache_directory_may_be_a_link(
    copy: Path,
    hashed: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "link").symlink_to(cache_directory())
    monkeypatch.setenv("SC2ONNX_CACHE", str(tmp_path / "link"))
    Bundle.open(copy)
    assert DATA not in hashed


@pytest.fixture
def group_umask() -> Iterator[None]:
    """As where every user has a group."""
    before = os.umask(0o002)
    yield
    os.umask(before)


@posix
def test_under_any_umask_nobody_else_can_write(
    tmp_path: Path,
    group_umask: None,
    copy: Path,
    hashed: list[str],
) -> None:
    make_directory(tmp_path / "home" / ".cache" / "sc2onnx" / "checked")
    for directory in (tmp_path / "home").rglob("*"):
        assert directory.stat().st_mode & 0o022 == 0
    check_directories(tmp_path / "home", ".cache", "sc2onnx", "checked")
    assert memo().stat().st_mode & 0o022 == 0
    Bundle.open(copy)
    assert DATA not in hashed


def test_without_owners_only_links_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on Windows."""
    monkeypatch.delattr(os, "geteuid", raising=False)
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "file").touch(0o666)
    check_directories(tmp_path, "directory")
    check_file(tmp_path / "directory" / "file")
    (tmp_path / "link").symlink_to("directory")
    assert is_link(tmp_path / "link")
    with pytest.raises(OSError, match="is a link, which is not followed"):
        check_directories(tmp_path, "link")
    with pytest.raises(OSError, match="is not a file"):
        check_file(tmp_path / "directory")


@posix
def test_root_counts_as_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It made the container's image."""
    if os.geteuid() != 0:
        pytest.skip("needs a file of root's")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    (tmp_path / "file").touch(0o644)
    check_file(tmp_path / "file")


def test_what_lies_in_memory_is_read_every_time(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a write through a mapping sets no time."""
    shared = Path("/dev/shm")
    table = Path("/proc/self/mountinfo")
    if (
        not table.exists()
        or " /dev/shm " not in table.read_text()
        or not os.access(shared, os.W_OK)
    ):
        pytest.skip("there is no file system in memory")
    monkeypatch.setattr(stamps, "MOUNTS", table)
    monkeypatch.setattr(stamps, "LARGE", 1 << 20)
    with TemporaryDirectory(dir=shared) as place:
        copied = Path(shutil.copytree(bundle, Path(place) / "copy"))
        time.sleep(SETTLED)
        Bundle.open(copied)
        with (copied / DATA).open("r+b") as file, mmap(file.fileno(), 0) as mapped:
            mapped[1 << 20] ^= 1
            mapped.flush()
        with pytest.raises(BundleIntegrityError, match="altered or damaged"):
            Bundle.open(copied)


@posix
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("22 1 0:31 / /dev/shm rw,nosuid shared:4 - tmpfs tmpfs rw,size=1k", True),
        ("22 1 0:31 / /mnt/a\\040b rw - ramfs none rw", True),
        ("22 1 0:31 / /home rw,relatime - ext4 /dev/sda rw", False),
        ("22 1 0:3 / /dev/shm rw - tmpfs tmpfs rw", False),
        ("22 1 0:31", False),
        (" - tmpfs", False),
        ("", False),
    ],
)
def test_which_devices_are_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, found: bool
) -> None:
    (tmp_path / "mounts").write_text(f"21 1 8:1 / / rw - ext4 /dev/root rw\n{line}\n")
    monkeypatch.setattr(stamps, "MOUNTS", tmp_path / "mounts")
    assert stamps.in_memory(os.makedev(0, 31)) is found
