"""The calibrations kept on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest

from sc2onnx.bundle.directories import cache_directory
from sc2onnx.errors import OutputError
from sc2onnx.export.progress import Silent
from sc2onnx.export.quantize import calibrations as room
from sc2onnx.export.quantize import rounding
from sc2onnx.export.quantize.calibrations import (
    checkpoint_digest,
    open_store,
    windows_digest,
)
from tests.runtime.opening.test_stamps import for_all, for_the_group, give_away, linked_away, posix


def test_the_parts_decide_which_store_it_is() -> None:
    variants: list[dict[str, object]] = [
        {"text": "a", "recipe": "r"},
        {"text": "b", "recipe": "r"},
        {"text": "a", "recipe": "s"},
        {"text": "a", "recipe": "r", "more": 1},
    ]
    places = []
    for parts in variants:
        with open_store(parts) as store:
            places.append(store.directory)
    assert len(set(places)) == 4
    with open_store({"recipe": "r", "text": "a"}) as store:
        assert store.directory == places[0]
    assert places[0].parent == cache_directory() / "calibration"


def test_only_the_latest_are_kept() -> None:
    for number in range(6):
        with open_store({"number": number}) as store:
            (store.directory / "mark").write_text(str(number))
            os.utime(store.directory, (1000 + number, 1000 + number))
    with open_store({"number": 4}) as store:  # used again, so that it outlives the next
        assert (store.directory / "mark").read_text() == "4"
    with open_store({"number": 9}):
        pass
    marks = {path.read_text() for path in (cache_directory() / "calibration").glob("*/mark")}
    assert marks == {"4"}
    assert (
        len([path for path in (cache_directory() / "calibration").iterdir() if path.is_dir()])
        == room.KEPT
    )


@posix
@pytest.mark.parametrize("spoil", [linked_away, for_all, for_the_group, give_away])
@pytest.mark.parametrize("place", ["calibration", "its own"])
def test_what_others_could_write_becomes_no_weights(
    place: str,
    spoil: Callable[[Path, pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with open_store({"text": "a"}) as store:
        spoiled = store.directory if place == "its own" else store.directory.parent
    spoil(spoiled, monkeypatch)
    wrong = "(is a link|others can write|another user)"
    with (
        pytest.raises(OutputError, match=rf"cannot be kept in .*{wrong}"),
        open_store({"text": "a"}),
    ):
        pass


@posix
def test_under_any_umask_nobody_else_can_write() -> None:
    before = os.umask(0)
    try:
        with open_store({"text": "a"}) as store:
            assert store.directory.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)
    with open_store({"text": "a"}):
        pass


def test_only_calibrations_are_removed() -> None:
    """``SC2ONNX_CACHE`` may be a directory with other things in it."""
    root = cache_directory() / "calibration"
    (root / "mine" / "precious").mkdir(parents=True)
    for number in range(4):
        with open_store({"number": number}):
            pass
    assert (root / "mine" / "precious").is_dir()


def hold(parts: str) -> subprocess.Popen[str]:
    """Another process with a store open until it is told to leave; it leaves a mark."""
    script = f"""
import sys
from sc2onnx.export.quantize.calibrations import open_store
with open_store({parts}) as store:
    print("open", flush=True)
    sys.stdin.readline()
    (store.directory / "mark").write_text("theirs")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def test_a_store_is_open_in_one_process_at_a_time() -> None:
    seen = []

    def enter() -> None:
        with open_store({"number": 0}) as store:
            seen.append((store.directory / "mark").is_file())

    with hold("{'number': 0}") as process:
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join(timeout=0.3)
        assert seen == []
        process.communicate("leave\n", timeout=30)
    thread.join(timeout=30)
    assert seen == [True]


def test_waiting_is_said() -> None:
    stages = list[str]()

    class Told(Silent):
        def stage(self, text: str, total: int = 0) -> None:
            stages.append(text)
            process.communicate("leave\n", timeout=30)

    with hold("{'number': 0}") as process, open_store({"number": 0}, Told()) as store:
        assert (store.directory / "mark").is_file()
    assert stages == ["waiting for another export that calibrates the same"]
    with open_store({"number": 0}, Told()):
        assert len(stages) == 1


def test_a_calibration_that_cannot_be_removed_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock file is another user's."""
    original = filelock.FileLock

    def guarded(path: Path, **options: Any) -> Any:
        if "blocking" in options:
            raise PermissionError(13, "Permission denied")
        return original(path, **options)

    monkeypatch.setattr(room, "FileLock", guarded)
    for number in range(5):
        with open_store({"number": number}):
            pass
    assert (
        len([path for path in (cache_directory() / "calibration").iterdir() if path.is_dir()]) == 5
    )


@pytest.mark.parametrize("name", ["DAMPING", "TOWARDS_ORIGINAL", "SWEEPS", "FLOOR", "GROWTH"])
def test_another_way_of_rounding_has_another_store(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store({}) as store:
        before = store.directory
    monkeypatch.setattr(rounding, name, 7)
    with open_store({}) as store:
        assert store.directory != before


def test_a_store_that_is_open_elsewhere_is_not_forgotten() -> None:
    with hold("{'number': 0}") as process:
        for number in range(1, 5):
            with open_store({"number": number}) as store:
                (store.directory / "mark").write_text("ours")
        process.communicate("leave\n", timeout=30)
    marks = [path.read_text() for path in (cache_directory() / "calibration").glob("*/mark")]
    assert sorted(marks) == ["ours", "ours", "theirs"]


@pytest.mark.parametrize("where", ["cache", "root"])
def test_a_cache_that_cannot_be_written(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file stands in its place: permissions do not stop everybody."""
    monkeypatch.setenv("SC2ONNX_CACHE", str(tmp_path / "cache"))
    if where == "root":
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "calibration").write_text("")
    else:
        (tmp_path / "cache").write_text("")
    with (
        pytest.raises(
            OutputError,
            match=r"calibration cannot be kept in .*calibration \(.*\): .* set SC2ONNX_CACHE",
        ),
        open_store({}),
    ):
        pytest.fail("opened")


def test_where_there_is_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for variable in ("SC2ONNX_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", staticmethod(homeless))
    with (
        pytest.raises(OutputError, match=r"no home directory .* set SC2ONNX_CACHE"),
        open_store({}),
    ):
        pytest.fail("opened")


def test_an_error_inside_is_not_taken_for_one_of_the_store() -> None:
    with pytest.raises(FileNotFoundError, match="of the user"), open_store({}):
        raise FileNotFoundError("of the user")
    with open_store({}):  # the lock is free again
        pass


def test_digests(tmp_path: Path) -> None:
    def digest(**files: str) -> str:
        paths = []
        for name, text in files.items():
            (tmp_path / name).write_text(text)
            paths.append(tmp_path / name)
        return checkpoint_digest(paths)

    assert digest(a="1", b="2") == digest(a="1", b="2")
    assert (
        len(
            {
                digest(a="1", b="2"),
                digest(a="1", b="3"),
                digest(a="1", c="2"),
                digest(a="1"),
                digest(a="2", b="1"),
            }
        )
        == 5
    )
    assert windows_digest(np.arange(6).reshape(2, 3)) == windows_digest(
        np.asfortranarray(np.arange(6).reshape(2, 3))
    )
    assert windows_digest(np.arange(6)) != windows_digest(np.arange(1, 7))


@pytest.fixture(scope="session")
def cache_of_the_session() -> Path:
    """What fixtures see that are made once for all tests."""
    return cache_directory()


def test_neither_tests_nor_their_fixtures_use_the_users_cache(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, cache_of_the_session: Path
) -> None:
    assert cache_directory() == tmp_path / "sc2onnx-cache"
    assert cache_of_the_session.is_relative_to(tmp_path_factory.getbasetemp())
    assert not cache_of_the_session.is_relative_to(tmp_path)
