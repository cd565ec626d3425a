"""Packed weights in the user's cache: the same numbers from mapped memory, or
else packed in this process.
"""

from __future__ import annotations

import dataclasses
import errno
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import sc2onnx
from sc2onnx.bundle.directories import cache_directory
from sc2onnx.errors import DiskSpaceError, MissingDependencyError, OutputError, RequestError
from sc2onnx.evaluate import bundle_opener
from sc2onnx.runtime.loading import open_model
from sc2onnx.runtime.opening.bundle import Bundle
from sc2onnx.runtime.ort import packed_cache, packed_file, packed_form, packing
from sc2onnx.runtime.ort.kernels import Kernels, look
from sc2onnx.runtime.ort.packed_cache import PackedCache
from sc2onnx.runtime.ort.packed_form import DATA, ENTRY, Entry, PackedForm

try:
    from sc2onnx.export import Calibration, export
except MissingDependencyError:
    pytest.skip("makes quantised bundles: install the export extra", allow_module_level=True)

pytestmark = pytest.mark.kernels

TOKENS = [(7 * index) % 4000 + 1 for index in range(300)]  # beyond the window of 256


def quantised(checkpoint: Path, out: Path, precision: str, stages: int = 1) -> Path:
    export(checkpoint, out, precision=precision, stages=stages, calibration=Calibration(False))
    return out


def library() -> Kernels:
    found = look()
    assert isinstance(found, Kernels)
    return found


def find(bundle: Bundle) -> PackedForm | None:
    return packing.find(bundle, library())


def make(bundle: Bundle, *, wait: bool = True) -> PackedForm:
    return packing.make(bundle, library(), wait=wait)


@pytest.fixture(scope="module")
def int4(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    return quantised(checkpoint, tmp_path_factory.mktemp("packed") / "int4", "int4")


@pytest.fixture(scope="module")
def int8(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    return quantised(checkpoint, tmp_path_factory.mktemp("packed") / "int8", "int8")


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Every bundle is worth packing, and the commands of processes are kept instead of run."""
    commands: list[list[str]] = []

    def start(command: list[str]) -> subprocess.Popen[bytes]:
        commands.append(command)
        return subprocess.Popen([sys.executable, "-c", ""])

    monkeypatch.setattr(packing, "WORTHWHILE", 0)
    monkeypatch.setattr(packing, "start_process", start)
    return commands


def made(bundle: Path) -> PackedForm:
    return make(Bundle.open(bundle))


def logits(model: sc2onnx.Model) -> npt.NDArray[np.float32]:
    """Of a prompt in one pass, a step of one and a step of four: other kernels each."""
    with model.sequence() as sequence:
        parts = [sequence.append(tokens) for tokens in (TOKENS, [5], [6, 7, 8, 9])]
    return np.concatenate([part for part in parts if part is not None])


def plain(bundle: Path) -> npt.NDArray[np.float32]:
    model = sc2onnx.load(bundle, packed="off")
    assert not model.packed
    return logits(model)


def names() -> set[str]:
    """Of everything in the cache but the lock."""
    return {entry.name for entry in PackedCache.open().directory.iterdir()} - {".lock"}


@pytest.mark.parametrize(
    ("precision", "stages"), [("int4", 1), ("int4-fast", 1), ("int8", 1), ("int4", 3)]
)
def test_the_numbers_are_the_same_to_the_bit(
    checkpoint: Path, tmp_path: Path, precision: str, stages: int
) -> None:
    bundle = quantised(checkpoint, tmp_path / "bundle", precision, stages)
    assert sc2onnx.load(bundle, packed="now").packed
    for threads in (1, 2):  # packed by one thread, used by any number
        first, second = (
            sc2onnx.load(bundle, packed="off", threads=threads),
            sc2onnx.load(bundle, threads=threads),
        )
        assert (first.packed, second.packed) == (False, True)
        assert logits(first).tobytes() == logits(second).tobytes()


def replace(form: PackedForm, data: bytes) -> None:
    """Other data in a packed form, stamped as its own."""
    cache = PackedCache.open()
    with cache.locked(wait=True), cache.draft() as draft:
        (draft / DATA).write_bytes(data)
        entry = Entry.read(form.directory)
        assert cache.keep(draft, entry.made_from, entry.layout) == form


def test_it_takes_what_the_weights_take(int4: Path) -> None:
    weights = (int4 / "model.onnx.data").stat().st_size
    assert 0.8 * weights < made(int4).nbytes < 1.2 * weights


def test_a_bundle_may_move(int4: Path, tmp_path: Path) -> None:
    expected = plain(int4)
    made(int4)
    model = sc2onnx.load(Path(shutil.copytree(int4, tmp_path / "a place with spaces, é")))
    assert model.packed
    assert logits(model).tobytes() == expected.tobytes()


def test_the_second_start_after_a_first_that_did_not_wait(
    int8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "WORTHWHILE", 0)
    expected, deadline = plain(int8), time.monotonic() + 100
    assert not sc2onnx.load(int8).packed
    while not (model := sc2onnx.load(int8)).packed:
        assert time.monotonic() < deadline, names()
        time.sleep(0.2)
    assert logits(model).tobytes() == expected.tobytes()
    # the process takes its note away after the form is in place
    while names() != {find_form(int8).directory.name}:
        assert time.monotonic() < deadline, names()
        time.sleep(0.2)


def test_what_came_into_place_meanwhile_is_not_made_again(int4: Path) -> None:
    """A load that looked before it was there, and asks after its maker took the note away."""
    form = made(int4)
    before = names()
    assert not PackedCache.open().due(form.directory.name)
    assert names() == before


def find_form(bundle: Path) -> PackedForm:
    form = find(Bundle.open(bundle))
    assert form is not None
    return form


def test_a_background_process_is_started_once_an_hour(
    int4: Path, no_processes: list[list[str]]
) -> None:
    for _ in range(3):
        assert not sc2onnx.load(int4).packed
    assert [command[-2:] for command in no_processes] == [
        ["sc2onnx.runtime.ort.packing", str(int4)]
    ]
    note = next(PackedCache.open().directory.glob(".*.tried"))
    os.utime(note, (time.time() - 3601, time.time() - 3601))
    sc2onnx.load(int4)
    sc2onnx.load(int4)
    assert len(no_processes) == 2


def test_when_no_process_is_started(
    bundle: Path, int4: Path, no_processes: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not sc2onnx.load(bundle).packed  # float weights
    sc2onnx.load(int4, packed="off")
    with bundle_opener(int4, None)():  # evaluating
        pass
    with monkeypatch.context() as patch:
        patch.setattr(packing, "WORTHWHILE", 64_000_000)
        sc2onnx.load(int4)
    with monkeypatch.context() as patch:
        patch.setenv("SC2ONNX_PACKED_BYTES", "0")
        sc2onnx.load(int4)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/opt/editor/editor")
        sc2onnx.load(int4)
    assert no_processes == []
    assert not (cache_directory() / "packed").exists()
    made(int4)
    sc2onnx.load(int4)
    assert no_processes == []


def test_two_processes_write_one(int4: Path) -> None:
    code = (
        "import sys; from tests.runtime.ort.test_packing import made; from pathlib import Path; "
        "print(made(Path(sys.argv[1])))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(int4)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = {process.communicate(timeout=100)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert len(answers) == 1
    assert names() == {find_form(int4).directory.name}
    assert sc2onnx.load(int4).packed


def test_beside_a_writer_the_bundle_loads_as_it_is(int4: Path) -> None:
    with PackedCache.open().locked(wait=False):
        # gives up at once
        subprocess.run(
            [sys.executable, "-m", "sc2onnx.runtime.ort.packing", str(int4)],
            check=True,
            timeout=100,
        )
        assert names() == set()
        assert not sc2onnx.load(int4).packed
        with pytest.raises(OutputError, match="another process is writing"):
            make(Bundle.open(int4), wait=False)
    assert made(int4)


def test_a_writer_that_dies_leaves_nothing_that_is_taken_for_whole(
    int4: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import os, sys; from sc2onnx.runtime.ort.packing import main; from "
        "sc2onnx.runtime.ort.packed_cache import PackedCache\n"
        "PackedCache.make_room = lambda self, nbytes: os.path.exists(self.directory / '.lock') and "
        "any(self.directory.glob('.draft-*/*'))"
        f" and os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
        "main(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(int4)], check=False, timeout=100)
    assert done.returncode == -signal.SIGKILL
    [left] = names()
    assert left.startswith(".draft-")
    # all written, not yet in its place
    assert (PackedCache.open().directory / left / ENTRY).is_file()
    assert not sc2onnx.load(int4).packed
    monkeypatch.setattr(packing, "WORTHWHILE", 0)
    monkeypatch.setattr(
        packing, "start_process", lambda command: subprocess.Popen([sys.executable, "-c", ""])
    )
    sc2onnx.load(int4)  # cleans up, also where the writer it starts does nothing
    assert not any(name.startswith(".draft-") for name in names())
    form = made(int4)
    assert names() == {form.directory.name}


def truncate(form: PackedForm) -> None:
    os.truncate(form.data, form.data.stat().st_size - 1)


def alter(form: PackedForm) -> None:
    with form.data.open("r+b") as file:
        file.write(b"x")
    os.utime(form.data, (0, form.data.stat().st_mtime + 2))


def with_head(form: PackedForm, at: int, changed: bytes) -> None:
    """Another beginning of the file, under digests of its own."""
    data = form.data.read_bytes()
    replace(form, data[:at] + changed + data[at + len(changed) :])


DAMAGES: list[Callable[[PackedForm], Any]] = [
    truncate,
    alter,
    lambda form: form.data.unlink(),
    lambda form: (form.directory / ENTRY).unlink(),
    lambda form: (form.directory / ENTRY).write_text('{"format": 1'),
    lambda form: (form.directory / ENTRY).write_text("null"),
    lambda form: (form.directory / ENTRY).write_text("{}"),
    lambda form: replace(form, b""),
    lambda form: replace(form, b"\xff" * 10_000),
    lambda form: replace(form, form.data.read_bytes()[:-5000]),
    lambda form: with_head(form, 0, b"SC2ONNXQ"),
    lambda form: with_head(form, 8, b"\x63"),  # another layout
    lambda form: with_head(form, 12, b"\x01"),  # one matrix
    lambda form: with_head(form, 12, b"\xff\xff\xff\xff"),
    lambda form: with_head(form, 16, b"\xff\xff\xff\x7f"),  # the length of a name
    lambda form: with_head(form, 20, b"x"),  # another name
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_form_is_removed_and_made_again(
    int4: Path, damage: Callable[[PackedForm], Any]
) -> None:
    form, expected = made(int4), plain(int4)
    damage(form)
    model = sc2onnx.load(int4)
    assert not model.packed
    assert logits(model).tobytes() == expected.tobytes()
    assert names() == set()
    assert logits(sc2onnx.load(int4, packed="now")).tobytes() == expected.tobytes()
    assert sc2onnx.load(int4).packed


@pytest.mark.parametrize("what", ["layout", "format"])
def test_one_of_another_layout_is_not_found(
    int4: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    form, opened = made(int4), Bundle.open(int4)
    with monkeypatch.context() as patch:
        if what == "format":
            patch.setattr(packed_form, "FORMAT", packed_form.FORMAT + 1)
            assert not sc2onnx.load(int4, packed="auto").packed
            assert made(int4).directory != form.directory
        else:
            assert packing.find(opened, dataclasses.replace(library(), layout=99)) is None
    assert find_form(int4) == form


def test_other_weights_are_another_form(int4: Path, int8: Path) -> None:
    assert made(int4).directory != made(int8).directory


@pytest.fixture
def three(checkpoint: Path, tmp_path: Path, int4: Path, int8: Path) -> tuple[Path, Path, Path]:
    return int4, int8, quantised(checkpoint, tmp_path / "fast", "int4-fast")


def test_the_least_recently_used_goes_first(
    three: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = three
    forms = [made(first), made(second)]
    assert sc2onnx.load(first).packed  # so the second is now the one least recently used
    monkeypatch.setenv("SC2ONNX_PACKED_BYTES", str(sum(form.nbytes for form in forms) + 1000))
    made(third)
    assert [sc2onnx.load(path).packed for path in three] == [True, False, True]
    cache = PackedCache.open()
    assert sum(form.nbytes for form in cache.forms()) <= cache.limit


def test_one_in_use_may_go(int4: Path) -> None:
    expected, form = plain(int4), made(int4)
    model = sc2onnx.load(int4)
    form.discard()
    assert names() == set()
    assert logits(model).tobytes() == expected.tobytes()
    model.memory_footprint()


@pytest.mark.parametrize("limit", ["999", "0"])
def test_one_beyond_the_limit_is_not_kept(
    int4: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    form = made(int4)
    monkeypatch.setenv("SC2ONNX_PACKED_BYTES", limit)
    form.discard()
    with pytest.raises(
        OutputError, match=rf"all of them together may be {limit}: set SC2ONNX_PACKED_BYTES"
    ):
        sc2onnx.load(int4, packed="now")
    assert names() == set()


def test_a_limit_that_is_no_number(int4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SC2ONNX_PACKED_BYTES", "8 GB")
    with pytest.raises(
        RequestError, match="SC2ONNX_PACKED_BYTES is '8 GB', expected a number of bytes"
    ):
        sc2onnx.load(int4)
    assert not sc2onnx.load(int4, packed="off").packed


def test_an_unknown_mode(int4: Path) -> None:
    with pytest.raises(RequestError, match="packed is 'always', expected 'auto', 'now' or 'off'"):
        sc2onnx.load(int4, packed="always")  # type: ignore[arg-type]


def test_where_nothing_can_be_written(
    int4: Path, tmp_path: Path, no_processes: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SC2ONNX_CACHE", str(tmp_path / "file" / "cache"))
    assert not sc2onnx.load(int4).packed
    assert no_processes == []
    with pytest.raises(
        OutputError, match=r"packed weights cannot be kept in .*: set SC2ONNX_CACHE"
    ):
        sc2onnx.load(int4, packed="now")


def test_without_a_home(
    int4: Path, no_processes: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise OutputError("there is no home directory")

    monkeypatch.setattr(packed_cache, "cache_directory", homeless)
    assert not sc2onnx.load(int4).packed
    assert no_processes == []
    with pytest.raises(OutputError, match="no home"):
        sc2onnx.load(int4, packed="now")


def test_a_cache_that_can_only_be_read_is_used(int4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(int4)

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refused)
    monkeypatch.setattr(os, "rename", refused)
    assert sc2onnx.load(int4).packed


def test_a_disk_that_is_too_small(int4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(cache_directory().parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(DiskSpaceError, match="has 1,000,000 free: make room"):
        make(Bundle.open(int4))
    assert names() == set()


def test_a_disk_that_fills_up_meanwhile(int4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(packed_file, "write", full)
    with pytest.raises(OutputError, match="No space left on device"):
        make(Bundle.open(int4))
    assert names() == set()


def test_a_form_survives_being_copied_with_its_times(
    int4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into the image of a container, which keeps whole seconds."""
    made(int4)
    copy = Path(shutil.copytree(cache_directory(), tmp_path / "image"))
    for file in copy.rglob("*"):
        os.utime(file, (int(file.stat().st_atime), int(file.stat().st_mtime)))
    monkeypatch.setenv("SC2ONNX_CACHE", str(copy))
    assert sc2onnx.load(int4).packed


_MEASURE = """
import json, sys
import sc2onnx
def private():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if \
line.startswith("RssAnon"))
sc2onnx.load(sys.argv[1], packed="off")  # a small one: what any first load takes
before = private()
model = sc2onnx.load(sys.argv[2], packed=sys.argv[3])
list(model.generate_tokens([1], max_new_tokens=1))  # pages are read when they are computed with
print(json.dumps([model.packed, private() - before, model.memory_footprint().resident_weights]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells private memory from shared")
def test_private_memory_is_a_fraction(
    int4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint = pytest.importorskip("make_checkpoint")
    shape = {
        **make_checkpoint.SHAPES["3b"],
        "vocab_size": 4096,
        "max_position_embeddings": 1024,
        "num_hidden_layers": 6,
    }
    shape |= {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 6,
        "num_key_value_heads": 1,
    }
    monkeypatch.setattr(make_checkpoint, "SHAPES", {"small": shape})
    make_checkpoint.make("small", tmp_path / "checkpoint")
    large = quantised(tmp_path / "checkpoint", tmp_path / "large", "int8")

    def measured(packed: str) -> tuple[bool, int, int]:
        command = [sys.executable, "-c", _MEASURE, str(int4), str(large), packed]
        values = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=100).stdout
        )
        return values[0], values[1], values[2]

    nbytes = made(large).nbytes
    (_, private, _), (used, rest, mapped) = measured("off"), measured("auto")
    assert used
    assert nbytes > 40_000_000
    assert mapped > 0.9 * nbytes
    assert private > 0.8 * nbytes  # else there would be nothing to gain
    assert rest < 0.4 * private


def test_a_graph_of_ones_own_runs_without_the_kernels(int4: Path) -> None:
    opened, form = Bundle.open(int4), made(int4)
    model = open_model(opened, [(int4 / "model.onnx").read_bytes()])
    assert (model.kernels, model.packed) == (False, False)
    with pytest.raises(AssertionError):
        open_model(opened, [(int4 / "model.onnx").read_bytes()], packed=form)


def test_without_the_kernels_nothing_is_packed(int4: Path, no_processes: list[list[str]]) -> None:
    made(int4)
    model = sc2onnx.load(int4, packed="now", kernels="off")
    assert (model.kernels, model.packed) == (False, False)
    assert no_processes == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")
def test_models_that_are_gone_keep_nothing_mapped(int4: Path) -> None:
    form = made(int4)

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(str(form.data))

    before = mapped()
    for _ in range(3):
        model = sc2onnx.load(int4)
        assert model.packed
        assert mapped() == before + 1
        del model
        gc.collect()
    assert mapped() == before
