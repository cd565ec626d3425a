"""A packed form is used for the bytes it was made from, if nobody else could have written it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sc2onnx
from sc2onnx.bundle.directories import cache_directory
from sc2onnx.errors import OutputError, Sc2onnxError
from sc2onnx.runtime.opening import stamps
from sc2onnx.runtime.opening.bundle import Bundle
from sc2onnx.runtime.opening.protobuf import with_places
from sc2onnx.runtime.ort import packed_file, packed_form, packing
from sc2onnx.runtime.ort.packed_cache import PackedCache
from sc2onnx.runtime.ort.packed_form import DATA, ENTRY, PackedForm
from tests.runtime.opening.test_protobuf import places
from tests.runtime.opening.test_stamps import (
    SETTLED,
    for_all,
    for_the_group,
    give_away,
    linked_away,
    posix,
)
from tests.runtime.ort.test_packing import TOKENS, find, logits, made, make, names, quantised

pytestmark = pytest.mark.kernels

Logits = bytes
MANIFEST = "sc2onnx.json"
GRAPH = "model.kernels.onnx"
WEIGHTS = "model.onnx.data"


@pytest.fixture(scope="module")
def int8(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    return quantised(checkpoint, tmp_path_factory.mktemp("trust") / "int8", "int8")


@pytest.fixture(scope="module")
def expected(int8: Path) -> Logits:
    return answer(int8, packed="off")


@pytest.fixture(scope="module")
def whole(int8: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its packed form, in another cache. Not to be written to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SC2ONNX_CACHE", str(tmp_path_factory.mktemp("whole")))
        return made(int8).directory


@pytest.fixture
def form(whole: Path) -> PackedForm:
    """The same in the test's own cache, as if it had been made there."""
    cache = PackedCache.open()
    cache.prepare()
    return PackedForm(Path(shutil.copytree(whole, cache.directory / whole.name)))


@pytest.fixture
def copy(int8: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(int8, tmp_path / "copy"))


def answer(bundle: Path, **options: Any) -> Logits:
    with sc2onnx.load(bundle, threads=1, **options).sequence() as sequence:
        return np.ascontiguousarray(sequence.append(TOKENS[:40])).tobytes()


def with_other_places(bundle: Path) -> None:
    """Graphs of the same size that compute something else, under the old manifest.

    Two weights of one shape have changed places.
    """
    for name in (GRAPH, "model.onnx", "model.adapters.onnx"):
        graph = (bundle / name).read_bytes()
        found = places(graph)
        norms = sorted(weight for weight in found if "norm" in weight and weight.endswith("weight"))
        one, other = next(
            (one, other)
            for one, other in combinations(norms, 2)
            if len(found[one]["offset"]) == len(found[other]["offset"])
        )
        places_of = {**found, one: found[other], other: found[one]}
        (bundle / name).write_bytes(
            with_places(
                graph,
                lambda weight, _, places_of=places_of: places_of[weight],  # type: ignore[misc]
            )
        )
        assert (bundle / name).stat().st_size == len(graph)


def flip(path: Path, at: int) -> None:
    """One other bit, size and times as before."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << at % 8]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "alter",
    [with_other_places, lambda copy: flip(copy / WEIGHTS, (copy / WEIGHTS).stat().st_size // 2)],
)
def test_a_form_of_altered_bytes_is_for_those_alone(
    int8: Path,
    copy: Path,
    expected: Logits,
    alter: Callable[[Path], None],
) -> None:
    """Where ``check="size"`` let them through."""
    alter(copy)
    its_own = answer(copy, check="size", packed="off")
    assert answer(copy, check="size", packed="now") == its_own != expected
    assert find(Bundle.open(copy, "size")) is not None
    for check in ("size", "auto", "full"):
        assert find(Bundle.open(int8, check)) is None
    assert answer(int8, packed="now") == expected
    assert answer(copy, check="size") == its_own
    assert len(PackedCache.open().forms()) == 2


def test_a_claim_of_the_manifest_finds_no_form(int8: Path, copy: Path) -> None:
    made(int8)
    with_other_places(copy)
    assert find(Bundle.open(copy, "size")) is None


def test_sizes_alone_use_a_form_where_the_bytes_are_known(
    copy: Path,
    expected: Logits,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made(copy)
    shutil.rmtree(cache_directory() / "checked", ignore_errors=True)
    time.sleep(SETTLED)
    monkeypatch.setattr(stamps, "LARGE", 1 << 20)
    assert find(Bundle.open(copy, "size")) is None  # nobody has read its weights
    assert answer(copy, check="size") == expected
    Bundle.open(copy)
    assert find(Bundle.open(copy, "size")) is not None
    assert answer(copy, check="size") == expected
    flip(copy / WEIGHTS, 5000)
    assert find(Bundle.open(copy, "size")) is None


def test_sizes_alone_have_the_background_read_the_bytes(
    copy: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(packing, "WORTHWHILE", 0)
    monkeypatch.setattr(stamps, "LARGE", 1 << 20)

    def start(command: list[str]) -> subprocess.Popen[bytes]:
        started.append(command)
        return subprocess.Popen([sys.executable, "-c", ""])

    monkeypatch.setattr(packing, "start_process", start)
    made(copy)
    shutil.rmtree(cache_directory() / "checked", ignore_errors=True)
    for _ in range(2):
        sc2onnx.load(copy, check="size")
    assert len(started) == 1
    packing.main(started[0][-1])
    assert sc2onnx.load(copy, check="size").packed


def test_the_background_packs_nothing_that_is_not_the_manifests(copy: Path) -> None:
    with_other_places(copy)
    packing.main(str(copy))
    assert not (cache_directory() / "packed").exists()


@pytest.mark.parametrize("name", [GRAPH, WEIGHTS])
def test_files_that_change_after_they_were_checked_are_not_packed(copy: Path, name: str) -> None:
    opened = Bundle.open(copy)
    flip(copy / name, (copy / name).stat().st_size - 200)
    with pytest.raises(OutputError, match="changed after it was checked: load it again"):
        make(opened)
    assert names() == set()


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("name", [GRAPH, WEIGHTS])
def test_files_that_change_while_they_are_packed_are_not_kept(
    copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    back: bool,
) -> None:
    """Also where they are again what they were."""
    write, at = packed_file.write, (copy / name).stat().st_size - 200

    def between(*arguments: Any) -> None:
        write(*arguments)
        flip(copy / name, at)
        if back:
            flip(copy / name, at)

    opened = Bundle.open(copy)
    time.sleep(SETTLED)
    monkeypatch.setattr(packed_file, "write", between)
    with pytest.raises(Sc2onnxError, match=r"changed while it was packed|could not load"):
        make(opened)
    assert names() == set()


@pytest.mark.parametrize("file", [DATA, ENTRY])
def test_no_changed_byte_is_computed_with(
    int8: Path,
    form: PackedForm,
    tmp_path: Path,
    expected: Logits,
    file: str,
) -> None:
    """Size and time are those that were. If nothing that counts has changed, the form may stay."""
    rng = random.Random(7)
    whole, path = shutil.copytree(form.directory, tmp_path / "whole"), form.directory / file
    size = path.stat().st_size
    for at in [0, 20, *(rng.randrange(size) for _ in range(6)), size - 1]:
        flip(path, at)
        assert answer(int8) == expected
        assert file == ENTRY or not path.exists()
        shutil.rmtree(form.directory, ignore_errors=True)
        shutil.copytree(whole, form.directory)


def test_data_of_the_same_size_and_time_are_checked(
    int8: Path, form: PackedForm, expected: Logits
) -> None:
    """The kernels compute with what is there."""
    data = np.fromfile(form.data, np.uint8)
    status = form.data.stat()
    (data ^ 0x55).tofile(form.data)
    os.utime(form.data, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert find(Bundle.open(int8)) is None
    assert answer(int8, packed="now") == expected
    assert sc2onnx.load(int8).packed


def fifo(path: Path, _: pytest.MonkeyPatch) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path, _: pytest.MonkeyPatch) -> None:
    path.unlink()
    path.mkdir()


SPOILS = [linked_away, for_all, for_the_group, give_away]


@posix
@pytest.mark.parametrize("spoil", [*SPOILS, fifo, directory])
@pytest.mark.parametrize("file", [DATA, ENTRY])
def test_a_file_that_is_not_to_be_believed(
    int8: Path,
    form: PackedForm,
    expected: Logits,
    file: str,
    spoil: Callable[[Path, pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        spoil(form.directory / file, patch)
        assert find(Bundle.open(int8)) is None
    assert answer(int8, packed="now") == expected
    assert find(Bundle.open(int8)) == form


def a_file_in_its_place(path: Path, _: pytest.MonkeyPatch) -> None:
    shutil.rmtree(path)
    path.touch()


@posix
@pytest.mark.parametrize("spoil", [*SPOILS, a_file_in_its_place])
def test_a_form_that_is_not_to_be_believed(
    int8: Path,
    form: PackedForm,
    spoil: Callable[[Path, pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        spoil(form.directory, patch)
        assert find(Bundle.open(int8)) is None
    assert make(Bundle.open(int8)) == form
    assert find(Bundle.open(int8)) == form
    assert not form.directory.is_symlink()


def test_what_a_link_leads_to_stays(int8: Path, form: PackedForm, tmp_path: Path) -> None:
    outside = Path(shutil.move(form.directory, tmp_path / "outside"))
    form.directory.symlink_to(outside)
    assert PackedCache.open().forms() == []
    assert find(Bundle.open(int8)) is None
    form.directory.symlink_to(outside)
    assert made(int8) == form
    assert {path.name for path in outside.iterdir()} == {DATA, ENTRY}


@posix
@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("place", ["packed", "cache"])
def test_a_cache_that_is_not_to_be_believed(
    int8: Path,
    form: PackedForm,
    expected: Logits,
    place: str,
    spoil: Callable[[Path, pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is neither used nor changed, and what is asked for by name says why."""
    if spoil is linked_away and place == "cache":
        pytest.skip("the cache's directory may be a link: it is the user's choice")
    spoil(cache_directory() / "packed" if place == "packed" else cache_directory(), monkeypatch)
    assert answer(int8) == expected
    assert find(Bundle.open(int8)) is None
    with pytest.raises(
        OutputError,
        match=(
            r"cannot be kept in .* \(.*(link|others can write|another user).*\): set SC2ONNX_CACHE"
        ),
    ):
        sc2onnx.load(int8, packed="now")
    assert (form.directory / ENTRY).is_file()


@posix
def test_no_link_of_the_lock_or_the_note_is_followed(
    int8: Path,
    form: PackedForm,
    tmp_path: Path,
) -> None:
    cache, precious = PackedCache.open(), tmp_path / "precious"
    precious.write_text("precious")
    cache.prepare()
    (cache.directory / ".lock").symlink_to(precious)
    assert find(Bundle.open(int8)) == made(int8) == form
    note = cache.directory / f".{form.directory.name}.tried"
    form.discard()
    note.symlink_to(precious)
    os.utime(precious, (0, 0))
    os.utime(note, (0, 0), follow_symlinks=False)
    assert cache.due(form.directory.name)
    assert not note.is_symlink()
    assert precious.read_text() == "precious"
    assert precious.stat().st_mtime == 0


def test_only_our_own_is_removed(int8: Path) -> None:
    """``SC2ONNX_CACHE`` may be a directory with other things in it, ``packed`` too."""
    mine = cache_directory() / "packed" / "mine"
    mine.mkdir(parents=True, mode=0o755)
    (mine / ENTRY).write_text("{}")
    (cache_directory() / "packed" / ".git").mkdir()
    (cache_directory() / "packed" / "file").touch()
    made(int8)
    cache = PackedCache.open()
    with cache.locked(wait=True):
        cache.sweep()
        cache.make_room(cache.limit)
    assert names() == {"mine", ".git", "file"}


HOSTILE = [
    "null",
    "[]",
    "{}",
    "[" * 100_000,
    '{"format": ' + "9" * 5000 + "}",
    " " * (1 << 20),
    json.dumps({"format": "3", "made_from": [], "layout": 1, "files": {}}),
    json.dumps({"format": 3, "made_from": [1], "layout": None, "files": {DATA: []}}),
    json.dumps({"format": 3, "made_from": ["a"], "layout": [], "files": {DATA: {}}}),
    json.dumps({"format": 3, "made_from": ["a"], "layout": 1, "files": {DATA: "x"}}),
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_entry(int8: Path, form: PackedForm, text: str) -> None:
    (form.directory / ENTRY).write_text(text)
    assert find(Bundle.open(int8)) is None
    assert not form.directory.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.update(files={DATA: [True, False]}),
        lambda entry: entry["files"].pop(DATA),
        lambda entry: entry["files"].update({"/dev/zero": [0, ""]}),
        lambda entry: entry["files"][DATA].pop(),
        lambda entry: entry["files"][DATA].__setitem__(1, ""),
        lambda entry: entry["files"][DATA].__setitem__(1, None),
        lambda entry: entry["made_from"].reverse(),
        lambda entry: entry.update(layout=2),
        lambda entry: entry.update(format=1),
        lambda entry: entry.update(more=1),
    ],
)
def test_an_entry_that_says_something_else(
    int8: Path,
    form: PackedForm,
    expected: Logits,
    change: Callable[[dict[str, object]], None],
) -> None:
    entry = json.loads((form.directory / ENTRY).read_text())
    change(entry)
    (form.directory / ENTRY).write_text(json.dumps(entry))
    assert answer(int8) == expected
    assert answer(int8, packed="now") == expected


def test_a_form_under_another_forms_name(int8: Path, checkpoint: Path, tmp_path: Path) -> None:
    other = quantised(checkpoint, tmp_path / "int4", "int4")
    first, second = made(int8), made(other)
    shutil.rmtree(second.directory)
    shutil.copytree(first.directory, second.directory)
    assert find(Bundle.open(other)) is None


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read for their digest, all of them being large enough to be remembered."""
    paths: list[Path] = []
    digest = hashlib.file_digest

    def counting(file: Any, name: str) -> Any:
        paths.append(Path(file.name))
        return digest(file, name)

    monkeypatch.setattr(stamps, "LARGE", 0)
    monkeypatch.setattr(hashlib, "file_digest", counting)
    return paths


@posix
def test_a_form_is_hashed_once(int8: Path, expected: Logits, hashed: list[Path]) -> None:
    time.sleep(SETTLED)
    form = made(int8)
    time.sleep(SETTLED)
    assert answer(int8) == expected
    hashed.clear()
    assert sc2onnx.load(int8).packed
    assert hashed == []
    os.utime(form.data)
    time.sleep(SETTLED)
    assert sc2onnx.load(int8).packed
    assert hashed == [form.data]


@posix
def test_a_form_in_an_image_is_hashed_once_more(
    int8: Path,
    tmp_path: Path,
    hashed: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made(int8)
    copied = Path(shutil.copytree(cache_directory(), tmp_path / "image"))
    monkeypatch.setenv("SC2ONNX_CACHE", str(copied))
    time.sleep(SETTLED)
    for _ in range(2):
        assert sc2onnx.load(int8).packed
    assert [path.name for path in hashed].count(DATA) == 1 + 1  # where it was made, and here


@posix
@pytest.mark.parametrize(
    ("umask", "mode"),
    [
        (0o002, 0o755),
        (0o022, 0o755),
        (0o077, 0o700),
        (0o000, 0o755),
    ],
)
def test_under_any_umask_a_form_is_believed(int8: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        form = made(int8)
    finally:
        os.umask(before)
    assert form.directory.stat().st_mode & 0o777 == mode
    assert form.data.stat().st_mode & 0o777 == mode & 0o644
    assert sc2onnx.load(int8).packed


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
@pytest.mark.parametrize("most", [0, 10_000, 1_000_000, 5_000_000])
def test_a_disk_that_is_full_at_any_moment(int8: Path, most: int) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    opened = Bundle.open(int8)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        with pytest.raises(Sc2onnxError):
            make(opened)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names() == set()
    assert made(int8)


@pytest.mark.parametrize(
    "call",
    [
        ("os", "fsync"),
        ("os", "rename"),
        ("Path", "write_text"),
        ("Path", "chmod"),
    ],
)
def test_a_disk_that_is_full_while_a_form_is_kept(
    int8: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: tuple[str, str],
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    opened = Bundle.open(int8)
    with monkeypatch.context() as patch:
        patch.setattr({"os": os, "Path": Path}[call[0]], call[1], full)
        with pytest.raises(OutputError, match="No space left on device"):
            make(opened)
    assert names() == set()


def test_a_form_that_cannot_be_removed_is_not_used(
    int8: Path,
    form: PackedForm,
    expected: Logits,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flip(form.data, 10)

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "rename", refused)
    assert answer(int8) == expected
    assert isinstance(form, PackedForm)
    assert not sc2onnx.load(int8).packed


def test_forms_of_earlier_versions_are_left_to_the_bound(
    int8: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(packed_form, "FORMAT", packed_form.FORMAT - 1)
        older = made(int8)
    assert find(Bundle.open(int8)) is None
    assert older in PackedCache.open().forms()
    assert logits(sc2onnx.load(int8, packed="now")).shape[0] > 0
