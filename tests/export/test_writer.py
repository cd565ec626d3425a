"""A bundle appears whole or not at all, and never in the place of anything that is not a bundle."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import DiskSpaceError, OutputError, OutputExistsError
from sc2onnx.export import export, writer
from sc2onnx.export.progress import Silent
from sc2onnx.export.weights import LazyWeight

Make = Callable[..., Path]
Contents = Callable[[Path], dict[str, bytes | None]]
During = Callable[[Callable[[], object]], Silent]
Check = Callable[[Path], None]
PAGE = 4096


@given(
    sizes=st.lists(
        st.one_of(st.integers(1, 2000), st.sampled_from([1023, 1024, 1025, 2048, 40_000])),
        max_size=20,
    )
)
def test_weights_of_a_page_or_more_start_on_a_page(sizes: list[int]) -> None:
    float32 = np.dtype(np.float32)
    lazy = [
        LazyWeight(str(number), (size,), float32, lambda: iter(()))
        for number, size in enumerate(sizes)
    ]
    placed, size = writer.place(lazy)
    end = 0
    for weight in lazy:
        tensor = placed[weight.name]
        assert tensor.offset is not None
        assert (tensor.name, tuple(tensor.shape), tensor.length) == (
            weight.name,
            weight.shape,
            weight.nbytes,
        )
        assert tensor.offset % (PAGE if weight.nbytes >= PAGE else 4) == 0
        assert end <= tensor.offset < end + PAGE
        end = tensor.offset + weight.nbytes
    assert size == end


def test_each_weight_lies_where_it_was_placed(
    make_checkpoint: Make,
    place: Path,
    random_tensors: Callable[..., dict[str, npt.NDArray[Any]]],
    settings: dict[str, Any],
) -> None:
    changes = {"vocab_size": 300, "intermediate_size": 70}  # some of more than a page, some of less
    seen: dict[str, tuple[int, int]] = {}
    original = writer.place

    def recording(weights: Any) -> Any:
        placed, size = original(weights)
        seen.update(
            {name: (tensor.offset or 0, tensor.length or 0) for name, tensor in placed.items()}
        )
        return placed, size

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "place", recording)
        export(make_checkpoint(changes), place / "bundle")
    data = (place / "bundle" / "model.onnx.data").read_bytes()
    for name, array in random_tensors({**settings, **changes}).items():
        if "self_attn" not in name or "o_proj" in name:  # q, k and v are packed
            start, length = seen[name]
            np.testing.assert_array_equal(
                np.frombuffer(data[start : start + length], np.float32).reshape(array.shape), array
            )


def test_the_manifest_has_the_size_and_digest_of_every_file(tiny_bundle: Path) -> None:
    files = {
        path.name: (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in tiny_bundle.iterdir()
        if path.name not in ("sc2onnx.json", "README.md")
    }
    assert {"model.onnx", "model.onnx.data", "tokenizer.json", "config.json"} <= set(files)
    assert {
        name: (entry.size, entry.sha256) for name, entry in Manifest.read(tiny_bundle).files.items()
    } == files


def test_the_same_checkpoint_gives_the_same_bytes(
    tiny_checkpoint: Path, tiny_bundle: Path, make_checkpoint: Make, place: Path, contents: Contents
) -> None:
    """Again, sharded, and in another process that has another hash seed and cannot
    import torch or onnxruntime.
    """
    expected = contents(tiny_bundle)
    export(tiny_checkpoint, place / "again")
    assert contents(place / "again") == expected
    export(make_checkpoint(shards=3), place / "sharded")
    assert contents(place / "sharded") == expected
    script = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'onnxruntime'])); "
        "from sc2onnx.export import export; export(sys.argv[1], sys.argv[2])"
    )
    subprocess.run(
        [sys.executable, "-c", script, tiny_checkpoint, place / "elsewhere"],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )
    assert contents(place / "elsewhere") == expected


@pytest.mark.parametrize(
    "error",
    [RuntimeError("broken"), KeyboardInterrupt(), SystemExit(1)],
    ids=lambda error: type(error).__name__,
)
def test_a_failure_in_the_middle_leaves_nothing_behind(
    tiny_checkpoint: Path, place: Path, contents: Contents, error: BaseException, during: During
) -> None:
    seen: list[list[str]] = []

    def action() -> None:
        seen.append([path.name for path in place.iterdir()])
        raise error

    with pytest.raises(type(error)):
        export(tiny_checkpoint, place / "bundle", progress=during(action))
    assert len(seen[0]) == 1
    assert "bundle" not in seen[0]  # it was at work, beside the place of the bundle
    assert contents(place) == {}


def test_a_failing_overwrite_keeps_the_old_bundle(
    tiny_checkpoint: Path, old: Path, contents: Contents, during: During
) -> None:
    before = contents(old.parent)

    def broken() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        export(tiny_checkpoint, old, overwrite=True, progress=during(broken))
    assert contents(old.parent) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_rename_that_fails_changes_nothing(
    tiny_checkpoint: Path,
    place: Path,
    request: pytest.FixtureRequest,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
    overwrite: bool,
    assert_new_and_alone: Check,
) -> None:
    if overwrite:
        request.getfixturevalue("old")
    before, rename, renamed = contents(place), os.rename, list[str]()
    for failing in range(1, 3 if overwrite else 2):
        renamed.clear()

        def failing_rename(source: Any, target: Any, failing: int = failing) -> None:
            renamed.append(str(target))
            if len(renamed) == failing:
                raise PermissionError(errno.EACCES, "refused")
            rename(source, target)

        monkeypatch.setattr(os, "rename", failing_rename)
        with pytest.raises(OSError, match=r"refused|cannot"):
            export(tiny_checkpoint, place / "bundle", overwrite=overwrite)
        assert contents(place) == before
        monkeypatch.setattr(os, "rename", rename)
    export(tiny_checkpoint, place / "bundle", overwrite=overwrite)
    assert_new_and_alone(place / "bundle")


def patch_fsync(
    monkeypatch: pytest.MonkeyPatch, directories: bool, failing: int, number: int
) -> list[int]:
    """The ``failing``-th flush of a file (or of a directory) to the disk raises.
    Returns a list that grows with each such flush.
    """
    fsync, flushed = os.fsync, list[int]()

    def failing_fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == directories:
            flushed.append(descriptor)
            if len(flushed) == failing:
                raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing_fsync)
    return flushed


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.ENOSPC, DiskSpaceError), (errno.EDQUOT, OutputError), (errno.EIO, OutputError)],
)
def test_a_disk_that_fills_or_fails_while_writing(
    tiny_checkpoint: Path,
    place: Path,
    request: pytest.FixtureRequest,
    contents: Contents,
    overwrite: bool,
    number: int,
    expected: type[OutputError],
    assert_new_and_alone: Check,
) -> None:
    """At every file in turn: the error says so, and the place is as it was."""
    if overwrite:
        request.getfixturevalue("old")
    before = contents(place)
    failing = 1
    while True:
        with pytest.MonkeyPatch.context() as patch:
            flushed = patch_fsync(patch, directories=False, failing=failing, number=number)
            caught: OSError | None = None
            try:
                export(tiny_checkpoint, place / "bundle", overwrite=overwrite)
            except OSError as error:
                caught = error
        if caught is None:
            break
        assert contents(place) == before
        assert isinstance(caught, expected)
        failing += 1
    # every file failed once
    assert failing > len(flushed) >= len(list((place / "bundle").iterdir()))
    assert_new_and_alone(place / "bundle")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_directory_that_cannot_be_flushed_leaves_the_old_or_the_new(
    tiny_checkpoint: Path,
    place: Path,
    request: pytest.FixtureRequest,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
    failing: int,
    overwrite: bool,
    assert_new_and_alone: Check,
) -> None:
    """Some file systems cannot flush a directory.
    An error means that nothing changed; no error, that all is done.
    """
    if overwrite:
        request.getfixturevalue("old")
    before = contents(place)
    patch_fsync(monkeypatch, directories=True, failing=failing, number=errno.EINVAL)
    try:
        export(tiny_checkpoint, place / "bundle", overwrite=overwrite)
    except OSError:
        assert contents(place) == before
    else:
        assert_new_and_alone(place / "bundle")


def test_too_little_room_is_noticed_before_anything_is_written(
    tiny_checkpoint: Path, place: Path, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[str] = []

    class Stages(Silent):
        def stage(self, text: str, total: int = 0) -> None:
            stages.append(text)

    asked: list[Path] = []

    def usage(path: Any) -> SimpleNamespace:
        asked.append(Path(path))
        return SimpleNamespace(free=10_000)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(
        DiskSpaceError,
        match=r"the bundle needs [\d.]+ GB, 0\.00 GB are free at .*place: free some space",
    ):
        export(tiny_checkpoint, place / "bundle", progress=Stages())
    assert asked == [place]
    assert stages
    assert not [text for text in stages if "writing" in text]
    assert contents(place) == {}


def test_a_parent_that_is_missing_or_a_file(tiny_checkpoint: Path, place: Path) -> None:
    (place / "file").touch()
    for parent in ("absent", "file"):
        with pytest.raises(
            OutputError, match=rf"{parent} is not a directory, expected the place to make bundle in"
        ):
            export(tiny_checkpoint, place / parent / "bundle")


def test_a_name_that_the_file_system_refuses(
    tiny_checkpoint: Path, place: Path, contents: Contents
) -> None:
    with pytest.raises(OutputError, match="cannot write in"):
        export(tiny_checkpoint, place / ("x" * 300))
    assert contents(place) == {}


def test_a_bundle_is_replaced_only_when_asked(
    tiny_checkpoint: Path, old: Path, contents: Contents, assert_new_and_alone: Check
) -> None:
    before = contents(old)
    with pytest.raises(
        OutputExistsError, match=r"bundle exists: choose another path, or pass --overwrite"
    ):
        export(tiny_checkpoint, old)
    assert contents(old) == before
    export(tiny_checkpoint, old, overwrite=True)
    assert_new_and_alone(old)


def test_an_empty_directory_is_replaced_when_asked(
    tiny_checkpoint: Path, place: Path, assert_new_and_alone: Check
) -> None:
    (place / "bundle").mkdir()
    with pytest.raises(OutputExistsError, match="exists"):
        export(tiny_checkpoint, place / "bundle")
    export(tiny_checkpoint, place / "bundle", overwrite=True)
    assert_new_and_alone(place / "bundle")


def test_what_is_not_a_bundle_is_never_replaced(
    tiny_checkpoint: Path, place: Path, contents: Contents, make_foreign: Callable[[], None]
) -> None:
    make_foreign()
    before = contents(place)
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError, match="bundle exists"):
            export(tiny_checkpoint, place / "bundle", overwrite=overwrite)
        assert contents(place) == before


def test_the_current_directory_as_output(
    tiny_checkpoint: Path,
    place: Path,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
    assert_new_and_alone: Check,
) -> None:
    """Exported into, if it is empty, or refused in words; nothing else appears."""
    monkeypatch.chdir(place)
    try:
        export(tiny_checkpoint, ".", overwrite=True)
    except OutputError:
        assert contents(place) == {}
    else:
        assert_new_and_alone(place)


def test_a_relative_output_path(
    tiny_checkpoint: Path, place: Path, monkeypatch: pytest.MonkeyPatch, assert_new_and_alone: Check
) -> None:
    monkeypatch.chdir(place)
    export(tiny_checkpoint, "bundle/")
    assert_new_and_alone(place / "bundle")


def test_a_signal_right_after_the_renames_leaves_the_new_bundle_alone(
    tiny_checkpoint: Path, old: Path, monkeypatch: pytest.MonkeyPatch, assert_new_and_alone: Check
) -> None:
    """It comes while the lock is removed, when the old bundle still stands aside."""
    unlink, told = Path.unlink, list[str]()

    def interrupted(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        if path.name == ".lock" and not told:
            told.append(path.name)
            raise SystemExit(129)

    monkeypatch.setattr(Path, "unlink", interrupted)
    with pytest.raises(SystemExit):
        export(tiny_checkpoint, old, overwrite=True)
    assert told
    assert_new_and_alone(old)
