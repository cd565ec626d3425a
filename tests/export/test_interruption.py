"""Killed, interrupted, or met by another at the same path: a bundle is there whole,
or the place is as it was.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sc2onnx.errors import OutputError, OutputExistsError
from sc2onnx.export import export
from sc2onnx.export.progress import Silent

Contents = Callable[[Path], dict[str, bytes | None]]
Start = Callable[..., "subprocess.Popen[str]"]
During = Callable[[Callable[[], object]], Silent]
Check = Callable[[Path], None]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_appears_at_the_output_path_meanwhile_is_not_replaced_either(
    tiny_checkpoint: Path,
    place: Path,
    contents: Contents,
    overwrite: bool,
    make_foreign: Callable[[], None],
    during: During,
) -> None:
    """The weights of a large model take minutes to write."""
    before: list[dict[str, bytes | None]] = []

    def meanwhile() -> None:
        (partial,) = place.iterdir()
        make_foreign()
        before.append(
            {
                name: data
                for name, data in contents(place).items()
                if not name.startswith(partial.name)
            }
        )

    with pytest.raises(OutputError):
        export(tiny_checkpoint, place / "bundle", overwrite=overwrite, progress=during(meanwhile))
    assert contents(place) == before[0]
    assert os.path.lexists(place / "bundle")


def test_a_bundle_that_another_export_finished_meanwhile_is_not_replaced_unasked(
    tiny_checkpoint: Path, tiny_bundle: Path, place: Path, during: During
) -> None:
    def meanwhile() -> None:
        shutil.copytree(tiny_bundle, place / "bundle")
        (place / "bundle" / "README.md").write_text("theirs")

    with pytest.raises(OutputExistsError):
        export(tiny_checkpoint, place / "bundle", progress=during(meanwhile))
    assert (place / "bundle" / "README.md").read_text() == "theirs"
    assert [path.name for path in place.iterdir()] == ["bundle"]


def test_of_two_exports_that_end_at_the_same_time_one_gives_way(
    tiny_checkpoint: Path, place: Path, monkeypatch: pytest.MonkeyPatch, assert_new_and_alone: Check
) -> None:
    """The second runs from beginning to end just before the first puts its bundle in place."""
    rename = os.rename

    def late_rename(source: Any, target: Any) -> None:
        monkeypatch.setattr(os, "rename", rename)
        export(tiny_checkpoint, place / "bundle")
        rename(source, target)

    monkeypatch.setattr(os, "rename", late_rename)
    with pytest.raises(OutputError):
        export(tiny_checkpoint, place / "bundle")
    assert_new_and_alone(place / "bundle")


@pytest.mark.parametrize("name", ["bundle", "model[v1]", "what?", "with space", "3.1"])
def test_what_a_killed_export_left_is_removed_by_the_next(
    tiny_checkpoint: Path,
    tmp_path: Path,
    place: Path,
    name: str,
    during: During,
    assert_new_and_alone: Check,
) -> None:
    kept = tmp_path / "kept"

    def keep() -> None:  # what is there in the middle is what a killed process leaves
        shutil.copytree(place, kept)

    export(tiny_checkpoint, place / name, progress=during(keep))
    shutil.copytree(kept, place, dirs_exist_ok=True)
    assert len(list(place.iterdir())) == 2
    export(tiny_checkpoint, place / name, overwrite=True)
    assert_new_and_alone(place / name)


def test_an_export_killed_in_the_middle(
    tiny_checkpoint: Path, place: Path, start_slow_export: Start, assert_new_and_alone: Check
) -> None:
    """While it lives, another export to the same path leaves it alone; when it is dead, the
    next one cleans up after it.
    """
    with start_slow_export(tiny_checkpoint, place / "bundle") as process:
        try:
            (partial,) = place.iterdir()
            assert partial.name != "bundle"
            export(tiny_checkpoint, place / "bundle")
            assert {path.name for path in place.iterdir()} == {"bundle", partial.name}
            assert (partial / "model.onnx.data").is_file()
            shutil.rmtree(place / "bundle")
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert [path.name for path in place.iterdir()] == [partial.name]
    export(tiny_checkpoint, place / "bundle")
    assert_new_and_alone(place / "bundle")


@pytest.mark.parametrize("moment", ["os.rename", "shutil.rmtree"])
def test_an_overwrite_killed_while_it_replaces(
    tiny_checkpoint: Path,
    old: Path,
    contents: Contents,
    moment: str,
    assert_new_and_alone: Check,
) -> None:
    """Killed before the second rename, or before the old bundle is removed: one of the two is
    whole, and the next export cleans up.
    """
    before = contents(old)
    script = f"""
import os, shutil, signal, sys
from sc2onnx.export import export
original, calls = {moment}, []
def killing(*arguments, **options):
    calls.append(arguments)
    if len(calls) == {2 if moment == "os.rename" else 1}:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **options)
{moment} = killing
export(sys.argv[1], sys.argv[2], overwrite=True)
"""
    killed = subprocess.run([sys.executable, "-c", script, tiny_checkpoint, old])
    assert killed.returncode == -signal.SIGKILL
    assert len(list(old.parent.iterdir())) > 1
    assert before in [contents(path) for path in old.parent.iterdir()]
    export(tiny_checkpoint, old, overwrite=True)
    assert_new_and_alone(old)


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGTERM, 128 + signal.SIGTERM),
        (signal.SIGHUP, 128 + signal.SIGHUP),
        (signal.SIGINT, 130),
    ],
)
def test_an_interrupted_command_leaves_nothing(
    tiny_checkpoint: Path,
    place: Path,
    contents: Contents,
    start_slow_export: Start,
    number: signal.Signals,
    status: int,
) -> None:
    with start_slow_export(tiny_checkpoint, place / "bundle") as process:
        assert list(place.iterdir())
        process.send_signal(number)
        _, complaint = process.communicate()
    assert process.returncode == status
    assert "Traceback" not in complaint
    assert contents(place) == {}


def test_an_interrupted_overwrite_keeps_the_old_bundle(
    tiny_checkpoint: Path, old: Path, contents: Contents, start_slow_export: Start
) -> None:
    before = contents(old.parent)
    with start_slow_export(tiny_checkpoint, old, "--overwrite") as process:
        assert len(list(old.parent.iterdir())) == 2
        process.send_signal(signal.SIGTERM)
        process.wait()
    assert contents(old.parent) == before
